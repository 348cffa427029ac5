"""A forward on a CPU: graphs of OpenVINO, and the priority of the threads that compute."""

"""Records out of files, one module for each format: for imports, `ret2 load`, training and benchmarks. Each has the
same two functions:

spans(opened, cut) the parts of a file that can be read by themselves, with how many records each has records(opened,
span, is_used) the records of one part, in order, one at a time
"""

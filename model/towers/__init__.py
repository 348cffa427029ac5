"""The backbones: token ids or pixels in, states of the tapped layers out."""

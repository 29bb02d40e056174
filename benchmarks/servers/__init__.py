"""The Python peers, each as small as its own documentation would have it."""

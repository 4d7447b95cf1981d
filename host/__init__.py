"""The packager and client on the developer's machine. The only package that may import TensorFlow."""

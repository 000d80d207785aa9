"""Networks of other tools: models of torch and ONNX become a Sequential, and a Sequential becomes theirs.

Each file loads the library it converts for where it is called, never at import. Images are channels first there and
channels last here: `flattening.py` says how the weights after a Flatten move.
"""

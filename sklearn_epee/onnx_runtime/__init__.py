"""Run the output of `export_onnx` with early exits; needs only onnxruntime and NumPy.

This folder imports nothing else of the package: it can be copied next to a model and runs without
scikit-learn, torch and transformers. Texts also need ``tokenizers``, unless they are given as token
ids.

    from sklearn_epee.onnx_runtime import OnnxExits

    model = OnnxExits("notes.onnx")
    found = model.predict_with_exits(["stopped taking zinc"])
"""

from ._samples_model import OnnxExits
from ._words_model import OnnxTokenExits

__all__ = ["OnnxExits", "OnnxTokenExits"]

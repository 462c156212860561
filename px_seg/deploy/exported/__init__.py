"""Networks in files that other runtimes read: ONNX, and OpenVINO in float32 and INT8."""

from px_seg.deploy.exported.network import Exported, files_of, open_exported
from px_seg.deploy.exported.onnx_file import write_onnx
from px_seg.deploy.exported.openvino_file import quantise, write_openvino

__all__ = ["Exported", "files_of", "open_exported", "quantise", "write_onnx", "write_openvino"]

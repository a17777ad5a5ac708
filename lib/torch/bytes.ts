import { type DType, dtypes } from "./dtype.js";
import { asTorchError, TorchError } from "./errors.js";
import { type Handle, native } from "./native.js";
import { type Tensor, wrap } from "./tensor.js";

let viewDtype: number | undefined;

/** The tensor's elements as a flat uint8 tensor, row-major; a view if the tensor is contiguous. Records no gradient. */
export function asBytes(tensor: Tensor): Tensor {
  viewDtype ??= native.overloads("aten::view").find(({ overload }) => overload === "dtype")?.id as number;
  const contiguous = tensor.detach().resolveConj().resolveNeg().contiguous();
  const flat = contiguous.asStrided([tensor.numel()], [1]); // a single element may have any stride
  try {
    return wrap(native.call(viewDtype, flat.handle, dtypes.uint8.code) as Handle);
  } catch (error) {
    throw asTorchError(error, "asBytes");
  }
}

/** Number of bytes of the tensor's elements. */
export function byteLength(tensor: Tensor): number {
  return tensor.numel() * itemSize(tensor.dtype);
}

export function itemSize(dtype: DType): number {
  return dtypes[dtype].itemSize;
}

/**
 * Copies the elements of a tensor, unconverted and row-major, into JavaScript memory. Waits for the device.
 *
 * @throws TorchError TORCH_VALUE if the target has another size
 */
export function readBytes(tensor: Tensor, target: Uint8Array): void {
  if (target.byteLength !== byteLength(tensor)) {
    throw new TorchError(
      "TORCH_VALUE",
      `readBytes: the target has ${target.byteLength} bytes, the tensor ${byteLength(tensor)}`,
    );
  }
  try {
    native.readInto(tensor.handle, target);
  } catch (error) {
    throw asTorchError(error, "readBytes");
  }
}

import { maskedCrc32c } from "./crc32c.js";

/** A record of a TFRecord file: its length in eight bytes, the checksum of those, the data, the checksum of the data. */
export function record(data: Uint8Array): Buffer {
  const bytes = Buffer.alloc(data.length + 16);
  bytes.writeUInt32LE(data.length % 2 ** 32, 0);
  bytes.writeUInt32LE(Math.floor(data.length / 2 ** 32), 4);
  bytes.writeUInt32LE(maskedCrc32c(bytes.subarray(0, 8)), 8);
  bytes.set(data, 12);
  bytes.writeUInt32LE(maskedCrc32c(data), 12 + data.length);
  return bytes;
}

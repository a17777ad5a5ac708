#pragma once

#include <c10/core/Device.h>

#include "call.h"

namespace diffcoder {

// Argument i, a CUDA device's index, of a device that is there and ready.
c10::DeviceIndex cudaDeviceArgument(const Call& call, size_t i);

}  // namespace diffcoder

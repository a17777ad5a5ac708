// Between JavaScript values and the dispatcher's IValues, directed by an operator's schema.
#pragma once

#include <ATen/core/ivalue.h>

#include "call.h"
#include "operator_registry.h"

namespace diffcoder {

// `scratchUsed` counts the numbers that list arguments have taken from scratch.
c10::IValue toIValue(const Call& call, napi_value value, const ArgumentType& type, size_t& scratchUsed);
napi_value fromIValue(const Call& call, c10::IValue value);
at::Scalar toScalar(const Call& call, napi_value value);
c10::Device toDevice(const std::string& name);  // refuses a CUDA device where there is none

}  // namespace diffcoder

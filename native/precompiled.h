// Headers that nearly every file needs. The build puts them before every .cc file; CMake compiles them once, which
// saves about 4 s a file. Still include what a file uses: .cu files do not get these.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <napi.h>
#include <torch/library.h>

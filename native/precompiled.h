// Headers that nearly every file needs, compiled once by CMake (about 4 s saved per file). Never include this one:
// each file includes what it uses, so that node-gyp, which has no precompiled headers, compiles it too.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <napi.h>
#include <torch/library.h>

// As in CUDA, a part of cuda_runtime.h; here both are the whole.
#pragma once

#include "cuda_runtime.h"

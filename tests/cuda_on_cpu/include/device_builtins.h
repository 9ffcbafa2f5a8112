// What a kernel's source uses of the compiler.
#pragma once

#define __global__ static

// The way back out of code that touched what it may not.
#pragma once

#include <csetjmp>

namespace standin {

// Where an access fault of this thread goes; null: to the handler that was there before. Gives what was set.
sigjmp_buf* exchange_way_out(sigjmp_buf* way_out);

}  // namespace standin

#include "CSanitizer.h"

#include <sanitizer/allocator_interface.h>
#include <sanitizer/asan_interface.h>

void csanitizer_poison(const void *start, size_t length) { ASAN_POISON_MEMORY_REGION(start, length); }

void csanitizer_unpoison(const void *start, size_t length) { ASAN_UNPOISON_MEMORY_REGION(start, length); }

size_t csanitizer_allocated(void) { return __sanitizer_get_current_allocated_bytes(); }

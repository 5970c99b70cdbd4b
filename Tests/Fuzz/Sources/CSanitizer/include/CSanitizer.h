// What Swift can't call by itself: the address sanitizer's poison and count of bytes, and libFuzzer's loop.
#ifndef CSANITIZER_H
#define CSANITIZER_H

#include <stddef.h>
#include <stdint.h>

/// Any later touch of these bytes by code that was built with the sanitizer ends the process with a report.
void csanitizer_poison(const void *start, size_t length);
void csanitizer_unpoison(const void *start, size_t length);

/// Bytes that are allocated now, by anything in the process.
size_t csanitizer_allocated(void);

typedef int (*csanitizer_body)(const uint8_t *bytes, size_t length);

/// libFuzzer's main, with its options; comes back with the exit code.
int LLVMFuzzerRunDriver(int *argc, char ***argv, csanitizer_body body);

#endif

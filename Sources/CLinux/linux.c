#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

int clinux_allocate(int descriptor, uint64_t length) {
  return fallocate(descriptor, 0, 0, (off_t)length) == 0 ? 0 : errno;
}

int clinux_start_writeback(int descriptor, uint64_t position, uint64_t length) {
  return sync_file_range(descriptor, (off64_t)position, (off64_t)length, SYNC_FILE_RANGE_WRITE) == 0 ? 0 : errno;
}

int clinux_name_thread(const char *name) { return pthread_setname_np(pthread_self(), name); }

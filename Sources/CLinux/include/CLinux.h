// Linux system calls that Swift does not offer, each of which returns 0 or an errno value, and a prefetch hint to the
// processor.
#ifndef CLINUX_H
#define CLINUX_H

#include <stdint.h>

#include "CFaults.h"
#include "CReserve.h"

/// fallocate(2): reserves space for the first `length` bytes of a file and makes it at least that long.
int clinux_allocate(int descriptor, uint64_t length);

/// memfd_create(2): a file in memory without a name, closed on exec(2). Returns the descriptor, or -1 with `errno` set.
int clinux_memory_file(void);

/// sync_file_range(2) with SYNC_FILE_RANGE_WRITE: asks the kernel to start writing a range of a file to disk.
int clinux_start_writeback(int descriptor, uint64_t position, uint64_t length);

/// Polls without sleeping, up to this many nanoseconds, until no write of a range of a file is in flight to the disk.
/// EAGAIN: the time was over. ENOSYS: the kernel can't tell, as before Linux 6.5 (cachestat(2)).
int clinux_poll_writeback(int descriptor, uint64_t position, uint64_t length, uint32_t nanoseconds);

/// Marks an open file as in use until its last descriptor is closed: a shared fcntl(2) lock of the open file description
/// (F_OFD_SETLK). Processes that may not write the file can't refuse it.
int clinux_mark_in_use(int descriptor);

/// Whether another open file description has marked a file: 0, or EAGAIN if so.
int clinux_is_in_use(int descriptor);

/// A read lease (F_SETLEASE) on a descriptor that is open only for reading. EAGAIN: some process has the file open for
/// writing. While the lease is held, opening the file for writing waits, and causes no signal that matters.
int clinux_lease(int descriptor);

/// Whether something, such as an NTP client, keeps the machine's clock right: adjtimex(2), which changes nothing here. 0: yes, and
/// the clock is wrong by at most so many microseconds, as far as the kernel knows. ETIME: nothing does.
int clinux_clock_is_kept(uint64_t *error_microseconds);

/// 1 if a file or directory is immutable or can only be appended to (chattr +i, +a), which no right overrides: statx(2). 0 if it is
/// not, or if the file system does not tell.
int clinux_is_fixed(const char *path);

/// Gives two files or directories each other's name, as one step: renameat2(2) with RENAME_EXCHANGE. -1 with errno if it fails.
int clinux_exchange(const char *first, const char *second);

/// pthread_setname_np(3) for the calling thread: its name in tools, at most 15 bytes.
int clinux_name_thread(const char *name);

/// From now on a signal that tells of a crash (SIGILL, SIGTRAP, SIGABRT, SIGFPE or SIGSEGV) writes `!` to the first byte of
/// this open file before it does what it did before, and programs started afterwards inherit none of this process's files
/// and sockets. A signal that was sent (kill, abort) ends the process even if the previous handler returns. A second call
/// sets another file.
void clinux_mark_crash(int descriptor);

/// Asks the processor for the cache line at an address. Touches nothing, so any address is harmless.
static inline void clinux_prefetch(const void *address) { __builtin_prefetch(address); }

#endif

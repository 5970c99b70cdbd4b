// Loaded in front of the C library (LD_PRELOAD) of a process under test. It numbers the calls on watched files, kills the
// process before one of them, makes one fail or come up short, and records the calls in order.
//
//   LOGSTORE_SHIM_ROOT   a directory; it, all below it and the directories above it are watched, and descriptors 0 and 1
//   LOGSTORE_SHIM_FAULT  CALL:WHEN:WHAT, several divided by commas. CALL is a name below, or * for all of them counted
//                        together; WHEN is N for the Nth, N+ for all from there on; WHAT is an errno value, "short" for
//                        half the length, or "kill" for SIGKILL before the call
//   LOGSTORE_SHIM_LOG    a file that gets a record for each call's beginning and end (struct record)
//   LOGSTORE_SHIM_DATA   1: with the bytes of each write
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

// The names, in the order of their numbers in the log.
#define CALLS(X) \
  X(open) X(close) X(pread) X(pwrite) X(read) X(write) X(fsync) X(fdatasync) X(rename) X(unlink) X(rmdir) X(mkdir) \
  X(ftruncate) X(fallocate) X(sync_file_range) X(mmap) X(madvise) X(flock) X(opendir) X(readdir) X(closedir) X(fstat) \
  X(stat) X(access) X(realpath) X(inotify_init1) X(inotify_add_watch) X(pipe) X(poll) X(fcntl) X(lstat)

enum call {
#define X(name) call_##name,
  CALLS(X)
#undef X
      call_count
};

static const char *const call_names[] = {
#define X(name) #name,
    CALLS(X)
#undef X
};

// A record of the log; the first path, the second and the data follow it.
struct record {
  uint32_t byte_count;  // all of it
  uint8_t call;
  uint8_t phase;  // 0 begin, 1 end, 2 not done: made to fail
  uint16_t first_path_count;
  uint16_t second_path_count;
  uint16_t is_short;
  uint32_t number;  // among all watched calls, from 1
  uint32_t file;    // differs for each open file, from 1; 0 for calls by path
  uint32_t flags;   // of open and mmap
  int64_t result;   // of an end; of a failure, -errno
  uint64_t position;
  uint64_t length;
  uint32_t data_count;
  uint32_t zero;
};

enum { descriptors_max = 4096, path_max = 1024, faults_max = 16, mappings_max = 4096 };

static struct {
  uint32_t file;
  char path[path_max];
} opened[descriptors_max];

struct fault {
  int call;  // call_count: all of them
  uint32_t when;
  bool and_later;
  int code;  // errno; 0 short, -1 kill
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct fault faults[faults_max];
static int fault_count;
static uint32_t counts[call_count + 1];
static uint32_t files;
static char root[path_max];
static size_t root_count;
static int log_descriptor = -1;
static bool with_data;
static struct {
  const char *start;
  size_t count;
} mappings[mappings_max];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

__attribute__((constructor)) static void begin_shim(void) {
  const char *given = getenv("LOGSTORE_SHIM_ROOT");
  if (!given || strlen(given) >= path_max) return;
  strcpy(root, given);
  root_count = strlen(root);
  strcpy(opened[0].path, "<stdin>");
  strcpy(opened[1].path, "<stdout>");
  opened[0].file = ++files;
  opened[1].file = ++files;
  with_data = getenv("LOGSTORE_SHIM_DATA") != NULL;
  const char *log = getenv("LOGSTORE_SHIM_LOG");
  if (log) {
    int made = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    // A high number, so that the process gets the same descriptors as without the shim.
    log_descriptor = fcntl(made, F_DUPFD_CLOEXEC, 200);
    syscall(SYS_close, made);
    if (log_descriptor < 0) abort();
  }
  const char *plan = getenv("LOGSTORE_SHIM_FAULT");
  while (plan && *plan) {
    char name[32], what[32];
    unsigned when;
    char later[2] = "";
    if (sscanf(plan, "%31[^:]:%u%1[+]:%31[^,]", name, &when, later, what) != 4 &&
        (later[0] = 0, sscanf(plan, "%31[^:]:%u:%31[^,]", name, &when, what) != 3))
      abort();
    if (fault_count == faults_max) abort();
    struct fault *fault = &faults[fault_count++];
    fault->call = call_count;
    if (strcmp(name, "*") != 0) {
      for (fault->call = 0; fault->call < call_count && strcmp(name, call_names[fault->call]) != 0; fault->call++) {
      }
      if (fault->call == call_count) abort();
    }
    fault->when = when;
    fault->and_later = later[0] == '+';
    fault->code = strcmp(what, "short") == 0 ? 0 : strcmp(what, "kill") == 0 ? -1 : atoi(what);
    plan = strchr(plan, ',');
    if (plan) plan++;
  }
}

static bool is_watched(const char *path) {
  if (!root_count || !path) return false;
  size_t count = strlen(path);
  if (count > root_count) return strncmp(path, root, root_count) == 0 && path[root_count] == '/';
  while (count > 1 && path[count - 1] == '/') count--;
  if (strncmp(path, root, count) != 0) return false;
  return count == root_count || root[count] == '/' || count == 1;
}

static bool is_open(int descriptor) {
  return descriptor >= 0 && descriptor < descriptors_max && opened[descriptor].file != 0;
}

// A call in flight.
struct going {
  struct record record;
  const char *first_path, *second_path;
  const void *data;
};

static void log_locked(struct going *going, int phase, int64_t result) {
  if (log_descriptor < 0) return;
  struct record *record = &going->record;
  bool is_begin = phase == 0;
  record->phase = (uint8_t)phase;
  record->result = result;
  record->first_path_count = going->first_path ? (uint16_t)strlen(going->first_path) : 0;
  record->second_path_count = going->second_path ? (uint16_t)strlen(going->second_path) : 0;
  record->data_count = is_begin && with_data && going->data ? (uint32_t)record->length : 0;
  record->byte_count =
      (uint32_t)sizeof *record + record->first_path_count + record->second_path_count + record->data_count;
  struct iovec parts[] = {
      {record, sizeof *record},
      {(void *)going->first_path, record->first_path_count},
      {(void *)going->second_path, record->second_path_count},
      {(void *)going->data, record->data_count},
  };
  if (syscall(SYS_writev, log_descriptor, parts, 4) != (long)record->byte_count) abort();
}

// Counts a call and records its start. Returns 0 to perform it, or the errno value that it fails with.
static int begin_call(struct going *going, enum call call) {
  int code = 0;
  pthread_mutex_lock(&mutex);
  going->record.call = (uint8_t)call;
  going->record.number = ++counts[call_count];
  counts[call]++;
  for (int index = 0; index < fault_count; index++) {
    const struct fault *fault = &faults[index];
    if (fault->call != call_count && fault->call != (int)call) continue;
    uint32_t count = counts[fault->call];
    if (count != fault->when && !(fault->and_later && count > fault->when)) continue;
    if (fault->code < 0) {
      syscall(SYS_kill, getpid(), SIGKILL);
      for (;;) pause();
    }
    if (fault->code > 0) {
      code = fault->code;
    } else if (going->record.length >= 2) {
      going->record.length /= 2;
      going->record.is_short = 1;
    }
  }
  log_locked(going, code ? 2 : 0, -code);
  pthread_mutex_unlock(&mutex);
  return code;
}

static void end_call(struct going *going, int64_t result) {
  int code = errno;
  pthread_mutex_lock(&mutex);
  log_locked(going, 1, result);
  pthread_mutex_unlock(&mutex);
  errno = code;
}

static struct going by_path(const char *path) {
  struct going going = {.first_path = path};
  return going;
}

static struct going by_descriptor(int descriptor) {
  struct going going = {.first_path = opened[descriptor].path};
  going.record.file = opened[descriptor].file;
  return going;
}

#define BEGIN(call, failed) \
  do { \
    int injected = begin_call(&going, call_##call); \
    if (injected) { \
      errno = injected; \
      return failed; \
    } \
  } while (0)

static void note_open(int descriptor, const char *path, struct going *going) {
  if (descriptor < 0) return;
  if (descriptor >= descriptors_max || strlen(path) >= path_max) abort();
  pthread_mutex_lock(&mutex);
  strcpy(opened[descriptor].path, path);
  opened[descriptor].file = ++files;
  if (going) going->record.file = opened[descriptor].file;
  pthread_mutex_unlock(&mutex);
}

static int open_any(const char *path, int flags, mode_t mode) {
  if (!is_watched(path)) return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
  struct going going = by_path(path);
  going.record.flags = (uint32_t)flags;
  BEGIN(open, -1);
  int result = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
  note_open(result, path, &going);
  end_call(&going, result < 0 ? -errno : result);
  return result;
}

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    return open_any(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

int close(int descriptor) {
  if (!is_open(descriptor)) return (int)syscall(SYS_close, descriptor);
  struct going going = by_descriptor(descriptor);
  char path[path_max];
  strcpy(path, going.first_path);
  going.first_path = path;
  // As in the kernel, the descriptor is closed whatever close returns.
  int injected = begin_call(&going, call_close);
  opened[descriptor].file = 0;
  int result = (int)syscall(SYS_close, descriptor);
  if (injected) {
    errno = injected;
    return -1;
  }
  end_call(&going, result);
  return result;
}

#define LENGTH going.record.length
#define BY_DESCRIPTOR(name, other, ...) \
  if (!is_open(descriptor)) return other; \
  struct going going = by_descriptor(descriptor); \
  __VA_ARGS__; \
  BEGIN(name, -1)
#define END(type, expression) \
  type result = (expression); \
  end_call(&going, result < 0 ? -errno : result); \
  return result

ssize_t pread(int descriptor, void *buffer, size_t count, off_t position) {
  BY_DESCRIPTOR(pread, syscall(SYS_pread64, descriptor, buffer, count, position), LENGTH = count,
                going.record.position = (uint64_t)position);
  END(ssize_t, syscall(SYS_pread64, descriptor, buffer, LENGTH, position));
}

ssize_t pwrite(int descriptor, const void *buffer, size_t count, off_t position) {
  BY_DESCRIPTOR(pwrite, syscall(SYS_pwrite64, descriptor, buffer, count, position), LENGTH = count,
                going.record.position = (uint64_t)position, going.data = buffer);
  END(ssize_t, syscall(SYS_pwrite64, descriptor, buffer, LENGTH, position));
}

ssize_t read(int descriptor, void *buffer, size_t count) {
  BY_DESCRIPTOR(read, syscall(SYS_read, descriptor, buffer, count), LENGTH = count);
  END(ssize_t, syscall(SYS_read, descriptor, buffer, LENGTH));
}

ssize_t write(int descriptor, const void *buffer, size_t count) {
  BY_DESCRIPTOR(write, syscall(SYS_write, descriptor, buffer, count), LENGTH = count, going.data = buffer);
  END(ssize_t, syscall(SYS_write, descriptor, buffer, LENGTH));
}

int fsync(int descriptor) {
  BY_DESCRIPTOR(fsync, (int)syscall(SYS_fsync, descriptor), );
  END(int, (int)syscall(SYS_fsync, descriptor));
}

int fdatasync(int descriptor) {
  BY_DESCRIPTOR(fdatasync, (int)syscall(SYS_fdatasync, descriptor), );
  END(int, (int)syscall(SYS_fdatasync, descriptor));
}

int ftruncate(int descriptor, off_t count) {
  BY_DESCRIPTOR(ftruncate, (int)syscall(SYS_ftruncate, descriptor, count), going.record.position = (uint64_t)count);
  END(int, (int)syscall(SYS_ftruncate, descriptor, count));
}

int fallocate(int descriptor, int mode, off_t position, off_t count) {
  BY_DESCRIPTOR(fallocate, (int)syscall(SYS_fallocate, descriptor, mode, position, count),
                going.record.flags = (uint32_t)mode, going.record.position = (uint64_t)(position + count));
  END(int, (int)syscall(SYS_fallocate, descriptor, mode, position, count));
}

int sync_file_range(int descriptor, off64_t position, off64_t count, unsigned flags) {
  BY_DESCRIPTOR(sync_file_range, (int)syscall(SYS_sync_file_range, descriptor, position, count, flags),
                going.record.position = (uint64_t)position);
  END(int, (int)syscall(SYS_sync_file_range, descriptor, position, count, flags));
}

int flock(int descriptor, int operation) {
  BY_DESCRIPTOR(flock, (int)syscall(SYS_flock, descriptor, operation), );
  END(int, (int)syscall(SYS_flock, descriptor, operation));
}

// Only locks and leases of open files: all other commands are about descriptors, and can't fail because of a file.
int fcntl(int descriptor, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (command != F_OFD_SETLK && command != F_OFD_GETLK && command != F_SETLEASE && command != F_SETSIG)
    return (int)syscall(SYS_fcntl, descriptor, command, argument);
  BY_DESCRIPTOR(fcntl, (int)syscall(SYS_fcntl, descriptor, command, argument), );
  END(int, (int)syscall(SYS_fcntl, descriptor, command, argument));
}

int fstat(int descriptor, struct stat *status) {
  BY_DESCRIPTOR(fstat, (int)syscall(SYS_fstat, descriptor, status), );
  END(int, (int)syscall(SYS_fstat, descriptor, status));
}

void *mmap(void *address, size_t count, int protection, int flags, int descriptor, off_t position) {
  if (!is_open(descriptor) || flags & MAP_ANONYMOUS)
    return (void *)syscall(SYS_mmap, address, count, protection, flags, descriptor, position);
  struct going going = by_descriptor(descriptor);
  going.record.flags = (uint32_t)protection;
  going.record.position = count;
  BEGIN(mmap, MAP_FAILED);
  char *result = (char *)syscall(SYS_mmap, address, count, protection, flags, descriptor, position);
  pthread_mutex_lock(&mutex);
  for (int index = 0; result != MAP_FAILED && index < mappings_max; index++) {
    if (mappings[index].start) continue;
    mappings[index].start = result;
    mappings[index].count = count;
    break;
  }
  pthread_mutex_unlock(&mutex);
  end_call(&going, result == MAP_FAILED ? -errno : 0);
  return result;
}

int munmap(void *address, size_t count) {
  pthread_mutex_lock(&mutex);
  for (int index = 0; index < mappings_max; index++)
    if (mappings[index].start == address) mappings[index].start = NULL;
  pthread_mutex_unlock(&mutex);
  return (int)syscall(SYS_munmap, address, count);
}

int madvise(void *address, size_t count, int advice) {
  bool is_ours = false;
  for (int index = 0; root_count && index < mappings_max && !is_ours; index++)
    is_ours = mappings[index].start && (char *)address >= mappings[index].start &&
              (char *)address < mappings[index].start + mappings[index].count;
  if (!is_ours) return (int)syscall(SYS_madvise, address, count, advice);
  struct going going = by_path("<mapping>");
  BEGIN(madvise, -1);
  END(int, (int)syscall(SYS_madvise, address, count, advice));
}

#define BY_PATH(name, failed) \
  if (!is_watched(path)) return REAL(name) ARGUMENTS; \
  struct going going = by_path(path); \
  BEGIN(name, failed); \
  END(int, REAL(name) ARGUMENTS)

#define ARGUMENTS (path)
int unlink(const char *path) { BY_PATH(unlink, -1); }
int rmdir(const char *path) { BY_PATH(rmdir, -1); }
#undef ARGUMENTS
#define ARGUMENTS (path, mode)
int mkdir(const char *path, mode_t mode) { BY_PATH(mkdir, -1); }
int access(const char *path, int mode) { BY_PATH(access, -1); }
#undef ARGUMENTS
#define ARGUMENTS (path, status)
int stat(const char *path, struct stat *status) { BY_PATH(stat, -1); }
int lstat(const char *path, struct stat *status) { BY_PATH(lstat, -1); }
#undef ARGUMENTS

int rename(const char *path, const char *to) {
  if (!is_watched(path)) return REAL(rename)(path, to);
  struct going going = by_path(path);
  going.second_path = to;
  BEGIN(rename, -1);
  END(int, REAL(rename)(path, to));
}

char *realpath(const char *path, char *resolved) {
  if (!is_watched(path)) return REAL(realpath)(path, resolved);
  struct going going = by_path(path);
  BEGIN(realpath, NULL);
  char *result = REAL(realpath)(path, resolved);
  end_call(&going, result ? 0 : -errno);
  return result;
}

DIR *opendir(const char *path) {
  if (!is_watched(path)) return REAL(opendir)(path);
  struct going going = by_path(path);
  BEGIN(opendir, NULL);
  DIR *result = REAL(opendir)(path);
  if (result) note_open(dirfd(result), path, &going);
  end_call(&going, result ? 0 : -errno);
  return result;
}

struct dirent *readdir(DIR *directory) {
  int descriptor = dirfd(directory);
  if (!is_open(descriptor)) return REAL(readdir)(directory);
  struct going going = by_descriptor(descriptor);
  BEGIN(readdir, NULL);
  struct dirent *result = REAL(readdir)(directory);
  end_call(&going, result ? 0 : -errno);
  return result;
}

int closedir(DIR *directory) {
  int descriptor = dirfd(directory);
  if (!is_open(descriptor)) return REAL(closedir)(directory);
  struct going going = by_path("<directory>");
  int injected = begin_call(&going, call_closedir);
  opened[descriptor].file = 0;
  int result = REAL(closedir)(directory);
  if (injected) {
    errno = injected;
    return -1;
  }
  end_call(&going, result);
  return result;
}

int inotify_init1(int flags) {
  struct going going = by_path("<inotify>");
  if (root_count) BEGIN(inotify_init1, -1);
  int result = REAL(inotify_init1)(flags);
  if (root_count) {
    note_open(result, "<inotify>", &going);
    end_call(&going, result < 0 ? -errno : result);
  }
  return result;
}

int inotify_add_watch(int descriptor, const char *path, uint32_t mask) {
  if (!is_watched(path)) return REAL(inotify_add_watch)(descriptor, path, mask);
  struct going going = by_path(path);
  BEGIN(inotify_add_watch, -1);
  END(int, REAL(inotify_add_watch)(descriptor, path, mask));
}

int pipe(int ends[2]) {
  struct going going = by_path("<pipe>");
  if (root_count) BEGIN(pipe, -1);
  int result = REAL(pipe)(ends);
  if (root_count) end_call(&going, result < 0 ? -errno : result);
  return result;
}

int poll(struct pollfd *sources, nfds_t count, int milliseconds) {
  // Waits without a limit are the command's own, for a signal; those for a file's notice have one.
  bool is_ours = false;
  for (nfds_t index = 0; milliseconds >= 0 && index < count; index++) is_ours = is_ours || is_open(sources[index].fd);
  if (!is_ours) return REAL(poll)(sources, count, milliseconds);
  struct going going = by_path("<poll>");
  BEGIN(poll, -1);
  END(int, REAL(poll)(sources, count, milliseconds));
}

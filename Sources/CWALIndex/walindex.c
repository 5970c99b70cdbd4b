#include "CWALIndex.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// The index of one database's log, shared by all connections to it. All of this is guarded by `lock`, but for the bytes of
// the regions, which SQLite orders by the locks that it takes on them.
struct index {
  struct index *next;
  int references;
  int region_count;
  void **regions;
  int shared[SQLITE_SHM_NLOCK];
  int exclusive[SQLITE_SHM_NLOCK];
  // With the zero at its end.
  char path[];
};

// What one connection has of it; behind what the system's own VFS keeps of a file.
struct connection {
  // That VFS's, with the four functions for shared memory replaced.
  sqlite3_io_methods methods;
  const char *path;
  struct index *index;
  unsigned shared, exclusive;
};

struct private_path {
  struct private_path *next;
  char path[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static sqlite3_vfs *base;
static sqlite3_vfs ours;
static struct private_path *private_paths;
static struct index *indexes;

static struct connection *connection_of(sqlite3_file *file) {
  return (struct connection *)((char *)file + (ours.szOsFile - (int)sizeof(struct connection)));
}

static struct index *index_of(struct connection *connection) {
  if (connection->index != NULL) return connection->index;
  struct index *index = indexes;
  while (index != NULL && strcmp(index->path, connection->path) != 0) index = index->next;
  if (index == NULL) {
    size_t byte_count = strlen(connection->path) + 1;
    index = calloc(1, sizeof *index + byte_count);
    if (index == NULL) return NULL;
    memcpy(index->path, connection->path, byte_count);
    index->next = indexes;
    indexes = index;
  }
  index->references++;
  connection->index = index;
  return index;
}

static int map_region(sqlite3_file *file, int number, int byte_count, int extends, void volatile **region) {
  struct connection *connection = connection_of(file);
  int result = SQLITE_OK;
  *region = NULL;
  pthread_mutex_lock(&lock);
  struct index *index = index_of(connection);
  if (index == NULL) {
    result = SQLITE_NOMEM;
  } else if (number < index->region_count) {
    *region = index->regions[number];
  } else if (extends) {
    void **regions = realloc(index->regions, sizeof *regions * (size_t)(number + 1));
    if (regions != NULL) index->regions = regions;
    while (regions != NULL && index->region_count <= number) {
      void *made = calloc(1, (size_t)byte_count);
      if (made == NULL) break;
      regions[index->region_count++] = made;
    }
    if (number < index->region_count) *region = index->regions[number];
    else result = SQLITE_NOMEM;
  }
  pthread_mutex_unlock(&lock);
  return result;
}

static int lock_index(sqlite3_file *file, int first, int count, int flags) {
  struct connection *connection = connection_of(file);
  unsigned mask = (1u << (first + count)) - (1u << first);
  int result = SQLITE_OK;
  pthread_mutex_lock(&lock);
  struct index *index = connection->index;
  if (index == NULL) {
    result = SQLITE_IOERR_SHMLOCK;
  } else if (flags & SQLITE_SHM_UNLOCK) {
    for (int slot = first; slot < first + count; slot++) {
      if (flags & SQLITE_SHM_SHARED && connection->shared & 1u << slot) index->shared[slot]--;
      if (flags & SQLITE_SHM_EXCLUSIVE && connection->exclusive & 1u << slot) index->exclusive[slot] = 0;
    }
    if (flags & SQLITE_SHM_SHARED) connection->shared &= ~mask;
    else connection->exclusive &= ~mask;
  } else if (flags & SQLITE_SHM_SHARED) {
    // Always one.
    if (!(connection->shared & mask)) {
      if (index->exclusive[first]) result = SQLITE_BUSY;
      else {
        index->shared[first]++;
        connection->shared |= mask;
      }
    }
  } else {
    for (int slot = first; slot < first + count; slot++) {
      int is_own = (connection->exclusive & 1u << slot) != 0;
      if (index->shared[slot] > 0 || (index->exclusive[slot] && !is_own)) result = SQLITE_BUSY;
    }
    if (result == SQLITE_OK) {
      for (int slot = first; slot < first + count; slot++) index->exclusive[slot] = 1;
      connection->exclusive |= mask;
    }
  }
  pthread_mutex_unlock(&lock);
  return result;
}

static void order_memory(sqlite3_file *file) {
  (void)file;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  // As SQLite's own does, for processors on which the fence alone is not enough for it.
  pthread_mutex_lock(&lock);
  pthread_mutex_unlock(&lock);
}

static int unmap_index(sqlite3_file *file, int deletes) {
  (void)deletes;
  struct connection *connection = connection_of(file);
  pthread_mutex_lock(&lock);
  struct index *index = connection->index;
  if (index != NULL) {
    for (int slot = 0; slot < SQLITE_SHM_NLOCK; slot++) {
      if (connection->shared & 1u << slot) index->shared[slot]--;
      if (connection->exclusive & 1u << slot) index->exclusive[slot] = 0;
    }
    connection->shared = connection->exclusive = 0;
    connection->index = NULL;
    if (--index->references == 0) {
      struct index **place = &indexes;
      while (*place != index) place = &(*place)->next;
      *place = index->next;
      for (int number = 0; number < index->region_count; number++) free(index->regions[number]);
      free(index->regions);
      free(index);
    }
  }
  pthread_mutex_unlock(&lock);
  return SQLITE_OK;
}

static int is_private(const char *path) {
  pthread_mutex_lock(&lock);
  struct private_path *known = private_paths;
  while (known != NULL && strcmp(known->path, path) != 0) known = known->next;
  pthread_mutex_unlock(&lock);
  return known != NULL;
}

static int open_file(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *flags_out) {
  (void)vfs;
  int result = base->xOpen(base, path, file, flags, flags_out);
  if (result != SQLITE_OK || path == NULL || !(flags & SQLITE_OPEN_MAIN_DB) || !is_private(path)) return result;
  // Version 2 and later have functions for shared memory.
  if (file->pMethods->iVersion < 2) return result;
  struct connection *connection = connection_of(file);
  memset(connection, 0, sizeof *connection);
  // SQLite keeps the path for as long as the file is open.
  connection->path = path;
  connection->methods = *file->pMethods;
  connection->methods.xShmMap = map_region;
  connection->methods.xShmLock = lock_index;
  connection->methods.xShmBarrier = order_memory;
  connection->methods.xShmUnmap = unmap_index;
  file->pMethods = &connection->methods;
  return SQLITE_OK;
}

static int registered = SQLITE_ERROR;

static void register_once(void) {
  base = sqlite3_vfs_find(NULL);
  if (base == NULL) return;
  ours = *base;
  ours.zName = "wal-index-in-memory";
  ours.pNext = NULL;
  ours.szOsFile = (base->szOsFile + 15) / 16 * 16 + (int)sizeof(struct connection);
  ours.xOpen = open_file;
  registered = sqlite3_vfs_register(&ours, 1);
}

int cwal_keep_index_in_memory(const char *path) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_once);
  if (registered != SQLITE_OK) return registered;
  struct private_path *made = calloc(1, sizeof *made + (size_t)base->mxPathname + 1);
  if (made == NULL) return SQLITE_NOMEM;
  // As SQLite will name it.
  int result = base->xFullPathname(base, path, base->mxPathname + 1, made->path);
  // It says so of a symbolic link, and has the path all the same.
  if ((result & 0xFF) != SQLITE_OK) {
    free(made);
    return result;
  }
  if (is_private(made->path)) {
    free(made);
    return SQLITE_OK;
  }
  pthread_mutex_lock(&lock);
  made->next = private_paths;
  private_paths = made;
  pthread_mutex_unlock(&lock);
  return SQLITE_OK;
}

// Opens as `open` does, but for a pipe, which it refuses: opened in the usual way, one that somebody has put in the place of a
// database holds the thread until somebody else opens the other end.
static int open_without_waiting(const char *path, int flags, int mode) {
  int descriptor = open(path, flags | O_NONBLOCK, mode);
  if (descriptor < 0) return descriptor;
  struct stat status;
  if (fstat(descriptor, &status) == 0 && !S_ISFIFO(status.st_mode)) return descriptor;
  close(descriptor);
  errno = EINVAL;
  return -1;
}

// Before anything can open a database: SQLite opens further connections of a pool when it likes.
__attribute__((constructor)) static void refuse_pipes(void) {
  sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
  if (vfs != NULL && vfs->iVersion >= 3 && vfs->xSetSystemCall != NULL)
    vfs->xSetSystemCall(vfs, "open", (sqlite3_syscall_ptr)open_without_waiting);
}

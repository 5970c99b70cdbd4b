// A file system some of whose bytes can't be read, as on a disk with bad sectors: it serves a directory through FUSE.
//
//   faulty DIRECTORY BACKING RULES
//
// serves BACKING as DIRECTORY until it is unmounted. RULES is a file that is read again before every read. Each of its
// lines, `NAME FIRST END`, says that in files with that name the bytes from FIRST to before END give EIO. Every opening of
// a file drops what the kernel has cached of it, so a rule holds for mapped bytes too once the file has been opened.
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char *backing;
static const char *rules;

struct handle {
  int descriptor;
  char name[NAME_MAX + 1];
};

#define RESULT(call) ((call) < 0 ? -errno : 0)

static const char *real(const char *path, char *buffer) {
  snprintf(buffer, PATH_MAX, "%s%s", backing, path);
  return buffer;
}
#define REAL(path) real(path, (char[PATH_MAX]){0})

static struct handle *handle_of(struct fuse_file_info *file) { return (struct handle *)(uintptr_t)file->fh; }

static int is_unreadable(const char *name, off_t position, size_t count) {
  FILE *file = fopen(rules, "r");
  if (file == NULL) return 0;
  char rule[NAME_MAX + 1];
  long long first, end;
  int found = 0;
  while (!found && fscanf(file, "%255s %lld %lld", rule, &first, &end) == 3) {
    found = strcmp(rule, name) == 0 && position < end && position + (off_t)count > first;
  }
  fclose(file);
  return found;
}

static int get_attributes(const char *path, struct stat *status, struct fuse_file_info *file) {
  return file != NULL && handle_of(file) != NULL ? RESULT(fstat(handle_of(file)->descriptor, status))
                                                 : RESULT(lstat(REAL(path), status));
}

static int list(
    const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file,
    enum fuse_readdir_flags flags) {
  (void)path, (void)offset, (void)flags;
  DIR *directory = (DIR *)(uintptr_t)file->fh;
  rewinddir(directory);
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) fill(buffer, entry->d_name, NULL, 0, 0);
  return 0;
}

static int open_directory(const char *path, struct fuse_file_info *file) {
  DIR *directory = opendir(REAL(path));
  file->fh = (uint64_t)(uintptr_t)directory;
  return directory != NULL ? 0 : -errno;
}

static int close_directory(const char *path, struct fuse_file_info *file) {
  (void)path;
  return RESULT(closedir((DIR *)(uintptr_t)file->fh));
}

static int open_with(const char *path, int flags, mode_t mode, struct fuse_file_info *file) {
  struct handle *made = calloc(1, sizeof *made);
  if (made == NULL) return -ENOMEM;
  // The kernel appends by itself, and may read the bytes around what it writes.
  made->descriptor = open(REAL(path), (flags & ~(O_APPEND | O_ACCMODE)) | O_RDWR, mode);
  if (made->descriptor < 0) {
    free(made);
    return -errno;
  }
  snprintf(made->name, sizeof made->name, "%s", strrchr(path, '/') + 1);
  file->fh = (uint64_t)(uintptr_t)made;
  return 0;
}

static int open_file(const char *path, struct fuse_file_info *file) { return open_with(path, file->flags, 0, file); }
static int create_file(const char *path, mode_t mode, struct fuse_file_info *file) {
  return open_with(path, file->flags | O_CREAT, mode, file);
}

static int close_file(const char *path, struct fuse_file_info *file) {
  (void)path;
  close(handle_of(file)->descriptor);
  free(handle_of(file));
  return 0;
}

static int read_file(const char *path, char *buffer, size_t count, off_t position, struct fuse_file_info *file) {
  const char *name = path != NULL ? strrchr(path, '/') + 1 : handle_of(file)->name;
  if (is_unreadable(name, position, count)) return -EIO;
  ssize_t done = pread(handle_of(file)->descriptor, buffer, count, position);
  return done < 0 ? -errno : (int)done;
}

static int write_file(const char *path, const char *bytes, size_t count, off_t position, struct fuse_file_info *file) {
  (void)path;
  ssize_t done = pwrite(handle_of(file)->descriptor, bytes, count, position);
  return done < 0 ? -errno : (int)done;
}

static int resize(const char *path, off_t length, struct fuse_file_info *file) {
  return file != NULL ? RESULT(ftruncate(handle_of(file)->descriptor, length)) : RESULT(truncate(REAL(path), length));
}

static int allocate(const char *path, int mode, off_t position, off_t length, struct fuse_file_info *file) {
  (void)path;
  return RESULT(fallocate(handle_of(file)->descriptor, mode, position, length));
}

static int sync_file(const char *path, int is_data_only, struct fuse_file_info *file) {
  (void)path, (void)is_data_only, (void)file;
  return 0;
}

static int rename_file(const char *from, const char *to, unsigned flags) {
  return flags != 0 ? -EINVAL : RESULT(rename(REAL(from), REAL(to)));
}
static int remove_file(const char *path) { return RESULT(unlink(REAL(path))); }
static int make_directory(const char *path, mode_t mode) { return RESULT(mkdir(REAL(path), mode)); }
static int remove_directory(const char *path) { return RESULT(rmdir(REAL(path))); }
static int set_mode(const char *path, mode_t mode, struct fuse_file_info *file) {
  (void)file;
  return RESULT(chmod(REAL(path), mode));
}
static int set_owner(const char *path, uid_t user, gid_t group, struct fuse_file_info *file) {
  (void)file;
  return RESULT(lchown(REAL(path), user, group));
}
static int set_times(const char *path, const struct timespec times[2], struct fuse_file_info *file) {
  (void)file;
  return RESULT(utimensat(AT_FDCWD, REAL(path), times, AT_SYMLINK_NOFOLLOW));
}
static int statistics(const char *path, struct statvfs *status) { return RESULT(statvfs(REAL(path), status)); }

static void *begin(struct fuse_conn_info *connection, struct fuse_config *config) {
  // One page at a time, and no more than was requested, so that only a page is unreadable and not everything around it.
  connection->max_read = 4096;
  connection->max_readahead = 0;
  config->attr_timeout = 0;
  config->entry_timeout = 0;
  config->hard_remove = 1;
  config->nullpath_ok = 1;
  config->kernel_cache = 0;
  return NULL;
}

int main(int count, char **words) {
  if (count != 4) return 64;
  backing = words[2];
  rules = words[3];
  umask(0);
  struct fuse_operations operations = {
      .init = begin,
      .getattr = get_attributes,
      .opendir = open_directory,
      .readdir = list,
      .releasedir = close_directory,
      .open = open_file,
      .create = create_file,
      .release = close_file,
      .read = read_file,
      .write = write_file,
      .truncate = resize,
      .fallocate = allocate,
      .fsync = sync_file,
      .rename = rename_file,
      .unlink = remove_file,
      .mkdir = make_directory,
      .rmdir = remove_directory,
      .chmod = set_mode,
      .chown = set_owner,
      .utimens = set_times,
      .statfs = statistics,
  };
  char *arguments[] = {words[0], "-f", "-s", "-o", "max_read=4096,fsname=logstore-faulty", words[1]};
  return fuse_main(sizeof arguments / sizeof *arguments, arguments, &operations, NULL);
}

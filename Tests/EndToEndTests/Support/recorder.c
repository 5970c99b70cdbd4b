// A disk for a loop device that records its operations: one file, served through FUSE, whose writes and flushes are
// appended to a record in their order.
//
//   recorder DIRECTORY IMAGE RECORD
//
// serves IMAGE as DIRECTORY/disk until it is unmounted. One thread does everything, so a flush comes after the writes that
// were completed before it, and the record's length identifies a moment. Each entry of the record is three integers of 64
// bits: 1, position, length, and the bytes follow, for a write; 2, 0, 0 for a flush; 3, position, length for zeros.
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int image;
static int record;

static int note(uint64_t kind, uint64_t position, uint64_t length, const void *bytes) {
  uint64_t head[] = {kind, position, length};
  struct iovec parts[] = {{head, sizeof head}, {(void *)bytes, bytes ? length : 0}};
  ssize_t expected = (ssize_t)(sizeof head + parts[1].iov_len);
  return writev(record, parts, 2) == expected ? 0 : -EIO;
}

static int get_attributes(const char *path, struct stat *status, struct fuse_file_info *file) {
  (void)file;
  memset(status, 0, sizeof *status);
  if (strcmp(path, "/") == 0) {
    status->st_mode = S_IFDIR | 0755;
    status->st_nlink = 2;
    return 0;
  }
  if (strcmp(path, "/disk") != 0) return -ENOENT;
  struct stat real;
  if (fstat(image, &real) != 0) return -errno;
  status->st_mode = S_IFREG | 0600;
  status->st_nlink = 1;
  status->st_size = real.st_size;
  return 0;
}

static int open_disk(const char *path, struct fuse_file_info *file) {
  // The kernel caches nothing between the loop device and this process.
  file->direct_io = 1;
  return strcmp(path, "/disk") == 0 ? 0 : -ENOENT;
}

static int read_disk(const char *path, char *buffer, size_t count, off_t position, struct fuse_file_info *file) {
  (void)path, (void)file;
  ssize_t done = pread(image, buffer, count, position);
  return done < 0 ? -errno : (int)done;
}

static int write_disk(const char *path, const char *buffer, size_t count, off_t position, struct fuse_file_info *file) {
  (void)path, (void)file;
  if (pwrite(image, buffer, count, position) != (ssize_t)count) return -EIO;
  return note(1, (uint64_t)position, count, buffer) ? -EIO : (int)count;
}

static int sync_disk(const char *path, int only_data, struct fuse_file_info *file) {
  (void)path, (void)only_data, (void)file;
  return note(2, 0, 0, NULL);
}

static int allocate(const char *path, int mode, off_t position, off_t count, struct fuse_file_info *file) {
  (void)path, (void)file;
  // Discard and zero requests. A disk may keep discarded bytes, but this one never does.
  if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))) return -EOPNOTSUPP;
  if (fallocate(image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, position, count) != 0) return -errno;
  return note(3, (uint64_t)position, (uint64_t)count, NULL);
}

static const struct fuse_operations operations = {
    .getattr = get_attributes,
    .open = open_disk,
    .read = read_disk,
    .write = write_disk,
    .fsync = sync_disk,
    .fallocate = allocate,
};

int main(int count, char **arguments) {
  if (count != 4) {
    fprintf(stderr, "usage: recorder DIRECTORY IMAGE RECORD\n");
    return 64;
  }
  image = open(arguments[2], O_RDWR | O_CLOEXEC);
  record = open(arguments[3], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (image < 0 || record < 0) {
    perror("recorder");
    return 1;
  }
  char *words[] = {arguments[0], "-f", "-s", "-o", "fsname=logstore-recorder", arguments[1], NULL};
  return fuse_main(6, words, &operations, NULL);
}

import Glibc

/// The operating system's text for an `errno` value.
func systemMessage(_ code: Int32) -> String {
  String(cString: strerror(code))
}

/// What a person can do about an `errno` value.
func systemAdvice(_ code: Int32) -> String {
  switch code {
  case EIO: "the disk or its file system failed; look into the kernel's log (dmesg) before going on"
  case EACCES, EPERM: "get the right to it, or run as its owner"
  case EROFS: "mount the file system for writing, or name another place"
  case EMFILE: "raise the limit of open files (ulimit -n)"
  case ENFILE: "the machine has too many open files; close some, or raise fs.file-max"
  case EFBIG: "raise the limit of the size of files (ulimit -f)"
  case ENOMEM: "free some memory, or raise its limit (ulimit -v)"
  case ENOENT, ENOTDIR: "check the path; something on it is missing, or was moved away"
  case EAGAIN: "end some processes or threads, or raise the limit of them (ulimit -u, TasksMax)"
  case EEXIST, ENOTEMPTY: "another program has put something there meanwhile; remove it, or name another place"
  case EBUSY: "the system or another program is using it, such as for a mount; end that first"
  case ENAMETOOLONG: "name a shorter path"
  case EXDEV: "a mount lies between the two; name a place on one file system"
  case EISDIR: "a file of that name is needed there: move the directory away"
  case ELOOP: "the symbolic link leads in a circle: remove it"
  case ENOLINK: "the symbolic link leads nowhere: put back what it leads to, or remove it"
  case EPIPE: "whoever read it has gone away; start both again"
  case EINTR: "a signal interrupted it; try again"
  default: "if that goes on, look into the kernel's log (dmesg)"
  }
}

/// Whether an `errno` value of a read means that the disk, or its file system, has lost the bytes: a bad sector, a wrong
/// checksum of the file system, a device that is gone.
func isUnreadable(_ code: Int32) -> Bool {
  switch code {
  case EIO, EUCLEAN, EBADMSG, ENODATA, EILSEQ, EREMOTEIO, ENXIO, ENODEV: true
  default: false
  }
}

/// What an `errno` value of an open means for a name under which there is no file; nil if there may be one.
func noFileReason(_ code: Int32) -> String? {
  switch code {
  case EISDIR: "it is a directory, and no file"
  case ELOOP: "it is a symbolic link that leads in a circle, and no file"
  case ENOLINK: "it is a symbolic link that leads nowhere, and no file"
  default: nil
  }
}

func unreadableReason(_ code: Int32) -> String { "can't be read: \(systemMessage(code))" }

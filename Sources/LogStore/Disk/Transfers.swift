import Glibc

// A system call may read or write less than it was asked for, or be interrupted. These functions repeat it, for the real
// disk and for the simulated one, which interrupts too.

/// Reads until the buffer is full or the file ends. Returns the number of bytes read.
///
/// - Parameter start: the buffer's position in the file, for the error.
/// - Parameter call: one system call into the rest of the buffer. Returns the number of bytes read, or a negative `errno`
///   value.
@inline(__always)
func readAll(
  into buffer: UnsafeMutableRawBufferPointer, _ path: String, at start: UInt64,
  _ call: (_ rest: UnsafeMutableRawBufferPointer, _ done: Int) -> Int
) throws(LogStoreError) -> Int {
  var done = 0
  while done < buffer.count {
    let count = call(UnsafeMutableRawBufferPointer(rebasing: buffer[done...]), done)
    if count > 0 {
      done += count
    } else if count == 0 {
      break
    } else if count != -Int(EINTR) {
      throw readFailure(path, at: start + UInt64(done), Int32(-count))
    }
  }
  return done
}

/// The error for a failed read. Bytes that the disk has lost are reported with their position.
func readFailure(_ path: String, at position: UInt64, _ code: Int32) -> LogStoreError {
  isUnreadable(code)
    ? .unreadable(Damage(file: path, position: position, reason: unreadableReason(code)))
    : failure("read", path, code)
}

/// Writes everything.
///
/// - Parameter call: one system call for the rest. Returns the number of bytes written, or a negative `errno` value.
@inline(__always)
func writeAll(
  _ bytes: UnsafeRawBufferPointer, _ path: String, _ call: (_ rest: UnsafeRawBufferPointer, _ done: Int) -> Int
) throws(LogStoreError) {
  var done = 0
  while done < bytes.count {
    let count = call(UnsafeRawBufferPointer(rebasing: bytes[done...]), done)
    if count > 0 {
      done += count
    } else if count != -Int(EINTR) {
      // A write of nothing would be repeated for ever. The kernel returns 0 at most for a full device.
      throw failure("write", path, count == 0 ? ENOSPC : Int32(-count))
    }
  }
}

import Glibc

// A system call may read or write less than it was asked for, or be interrupted. Here is what is done about that, for the
// real disk and for the simulated one, which interrupts too.

/// Reads until the buffer is full or the file ends; returns how much was read.
///
/// - Parameter start: where in the file the buffer begins, for the error.
/// - Parameter call: one system call, into what is left of the buffer: how much it read, or an `errno` value less than 0.
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

/// What it means that reading failed: bytes that the disk doesn't have are told by their place.
func readFailure(_ path: String, at position: UInt64, _ code: Int32) -> LogStoreError {
  isUnreadable(code)
    ? .unreadable(Damage(file: path, position: position, reason: unreadableReason(code)))
    : failure("read", path, code)
}

/// Writes everything.
///
/// - Parameter call: one system call, of what is left: how much it wrote, or an `errno` value less than 0.
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
      // A write of nothing would go on for ever; the kernel gives it for a full device at most.
      throw failure("write", path, count == 0 ? ENOSPC : Int32(-count))
    }
  }
}

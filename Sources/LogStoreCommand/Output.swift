import Glibc
import LogStore

/// Standard output could not be written to.
enum OutputError: Error {
  /// Its reader went away. That is how a reader says that it has seen enough: the command ends quietly.
  case closedPipe
  /// `errno`.
  case failed(Int32)
}

/// Standard output, buffered by us so that a line costs a copy and not a system call. Belongs to one thread.
final class Output {
  private(set) var bytes: [UInt8] = []
  private let flushThreshold: Int

  init(flushThreshold: Int = 1 << 18) {
    self.flushThreshold = flushThreshold
    bytes.reserveCapacity(flushThreshold + (flushThreshold >> 1))
  }

  /// Adds what `fill` appends, and writes everything once a lot has come together.
  @inline(__always)
  func add(_ fill: (inout [UInt8]) -> Void) throws(OutputError) {
    fill(&bytes)
    if bytes.count >= flushThreshold { try flush() }
  }

  func add(_ event: borrowing EventView, as format: RowFormat) throws(OutputError) {
    bytes.append(event, as: format)
    if bytes.count >= flushThreshold { try flush() }
  }

  func add(_ text: String) throws(OutputError) {
    try add { $0.append(contentsOf: text.utf8) }
  }

  /// Writes what is buffered; blocks while the reader is slow.
  func flush() throws(OutputError) {
    try writeAll(bytes, to: STDOUT_FILENO)
    // One huge event must not leave its memory behind.
    bytes.removeAll(keepingCapacity: bytes.capacity <= 4 * flushThreshold)
  }
}

/// Writes all of `bytes`, in as few calls as the system takes them.
func writeAll(_ bytes: [UInt8], to descriptor: Int32) throws(OutputError) {
  var done = 0
  while done < bytes.count {
    let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress?.advanced(by: done), $0.count - done) }
    if count >= 0 {
      done += count
    } else if errno == EAGAIN {
      // Somebody made the pipe non-blocking for all who share it.
      var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
      poll(&waiting, 1, -1)
    } else if errno != EINTR {
      throw errno == EPIPE ? .closedPipe : .failed(errno)
    }
  }
}

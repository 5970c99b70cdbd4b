import Glibc
import LogStore

/// Standard output could not be written to.
enum OutputError: Error {
  /// Its reader went away. That is how a reader says that it has seen enough: the command ends quietly.
  case closedPipe
  /// A signal came while its reader did not read: the command ends as after any signal, and what was not read is not written.
  case interrupted
  /// `errno`.
  case failed(Int32)

  var isInterruption: Bool { if case .interrupted = self { true } else { false } }
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

  /// Writes what is buffered; blocks while the reader is slow, but no longer after a signal.
  func flush() throws(OutputError) {
    try writeAll(bytes, to: STDOUT_FILENO)
    // One huge event must not leave its memory behind.
    bytes.removeAll(keepingCapacity: bytes.capacity <= 4 * flushThreshold)
  }
}

/// Writes all of `bytes`, in as few calls as the system takes them.
///
/// Where signals are caught (``Interruption``) a reader that does not read must not keep the process from ending: then only as
/// much is written at a time as a pipe takes without blocking once it takes anything, whole lines where that goes.
func writeAll(_ bytes: [UInt8], to descriptor: Int32) throws(OutputError) {
  let isInterruptible = Interruption.isCaught && !isFile(descriptor)
  var done = 0
  while done < bytes.count {
    var end = bytes.count
    if isInterruptible {
      try Interruption.waitForRoom(in: descriptor)
      end = pieceEnd(of: bytes, from: done)
    }
    let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress?.advanced(by: done), end - done) }
    if count >= 0 {
      done += count
    } else if errno == EAGAIN {
      // Somebody made the pipe non-blocking for all who share it.
      try Interruption.waitForRoom(in: descriptor)
    } else if errno != EINTR {
      throw errno == EPIPE ? .closedPipe : .failed(errno)
    }
  }
}

/// Where a write ends that a pipe takes as one: behind a line, if there is one that ends.
private func pieceEnd(of bytes: [UInt8], from start: Int) -> Int {
  let limit = Int(PIPE_BUF)
  guard bytes.count - start > limit else { return bytes.count }
  return bytes[start..<start + limit].lastIndex(of: UInt8(ascii: "\n")).map { $0 + 1 } ?? start + limit
}

/// Whether nobody has to read what is written for the next write to go on.
private func isFile(_ descriptor: Int32) -> Bool {
  guard let status = fileStatus(descriptor) else { return false }
  return [S_IFREG, S_IFBLK].contains(status.st_mode & S_IFMT)
}

import Glibc
import LogStore

/// Standard output could not be written to.
enum OutputError: Error {
  /// Its reader closed it, which means that it has seen enough: the command ends quietly.
  case closedPipe
  /// A signal came while its reader did not read: the command ends as after any signal, and drops the rest.
  case interrupted
  /// `errno`.
  case failed(Int32)

  var isInterruption: Bool { if case .interrupted = self { true } else { false } }
}

/// Standard output, buffered here so that a line costs a copy and not a system call. Used by one thread only.
final class Output {
  private(set) var bytes: [UInt8] = []
  private let flushThreshold: Int

  init(flushThreshold: Int = 1 << 18) {
    self.flushThreshold = flushThreshold
    bytes.reserveCapacity(flushThreshold + (flushThreshold >> 1))
  }

  /// Adds what `fill` appends, and writes everything once the buffer is full.
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

  /// Writes the buffer. Blocks while the reader is slow, but not after a signal.
  func flush() throws(OutputError) {
    try writeAll(bytes, to: STDOUT_FILENO)
    // Don't keep the memory of one huge event.
    bytes.removeAll(keepingCapacity: bytes.capacity <= 4 * flushThreshold)
  }
}

/// Writes all of `bytes`, in as few calls as the system allows.
///
/// If signals are caught (``Interruption``), a reader that does not read must not keep the process from ending. Then each
/// write has at most the bytes that a pipe accepts without blocking once it accepts any, in whole lines if possible.
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
      // Another process made the pipe non-blocking for all that share it.
      try Interruption.waitForRoom(in: descriptor)
    } else if errno != EINTR {
      throw errno == EPIPE ? .closedPipe : .failed(errno)
    }
  }
}

/// The end of a write that a pipe accepts atomically: behind a line, if one ends there.
private func pieceEnd(of bytes: [UInt8], from start: Int) -> Int {
  let limit = Int(PIPE_BUF)
  guard bytes.count - start > limit else { return bytes.count }
  return bytes[start..<start + limit].lastIndex(of: UInt8(ascii: "\n")).map { $0 + 1 } ?? start + limit
}

/// Whether a write never has to wait for a reader.
private func isFile(_ descriptor: Int32) -> Bool {
  guard let status = fileStatus(descriptor) else { return false }
  return [S_IFREG, S_IFBLK].contains(status.st_mode & S_IFMT)
}

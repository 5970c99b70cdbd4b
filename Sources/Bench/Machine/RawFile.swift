import Glibc
import LogStore
import Synchronization

/// The machine's own limit: one file, and the system calls that no durable log can do without.
final class RawFile: Sendable {
  private let descriptor: Int32
  private let byteCount: Int
  /// The position of the next frame. It wraps around, as the file was written through before.
  private let position = Atomic<Int>(0)

  /// Makes a file and writes it through, since syncing into space that was never written costs twice as much.
  init(_ path: String, byteCount: Int) throws {
    self.byteCount = byteCount
    descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw BenchError("open \(path) failed: \(String(cString: strerror(errno)))") }
    let zeros = [UInt8](repeating: 0, count: 1 << 20)
    for at in stride(from: 0, to: byteCount, by: zeros.count) {
      try zeros.withUnsafeBytes {
        try write(UnsafeRawBufferPointer(rebasing: $0[..<min(zeros.count, byteCount - at)]), at: at)
      }
    }
    guard fsync(descriptor) == 0 else { throw BenchError("fsync \(path) failed: \(errno)") }
  }

  deinit { close(descriptor) }

  /// Creates an empty file that grows, for an import of `byteCount` bytes.
  init(growing path: String, byteCount: Int) throws {
    self.byteCount = byteCount
    descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw BenchError("open \(path) failed: \(String(cString: strerror(errno)))") }
  }

  /// Writes a frame behind the one before.
  func append(_ frame: [UInt8]) throws {
    try frame.withUnsafeBytes { try append($0) }
  }

  func append(_ frame: UnsafeRawBufferPointer) throws {
    // Each thread gets a position of its own; a frame that would cross the end goes to the start.
    var at = position.add(frame.count, ordering: .relaxed).oldValue % byteCount
    if at + frame.count > byteCount { at = 0 }
    try write(frame, at: at)
  }

  func sync() throws {
    guard fdatasync(descriptor) == 0 else { throw BenchError("fdatasync failed: \(errno)") }
  }

  private func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws {
    let written = pwrite(descriptor, bytes.baseAddress, bytes.count, off_t(position))
    guard written == bytes.count else { throw BenchError("pwrite failed: \(String(cString: strerror(errno)))") }
  }
}

/// A file in memory, read-only.
///
/// Sendable though it holds a pointer: the memory is never written through it, and stays until `deinit`, which runs only
/// when no reference is left.
final class RawMapping: @unchecked Sendable {
  let bytes: UnsafeRawBufferPointer

  init(_ path: String) throws {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw BenchError("open \(path) failed: \(errno)") }
    defer { close(descriptor) }
    let byteCount = Int(lseek(descriptor, 0, SEEK_END))
    guard byteCount > 0, let start = mmap(nil, byteCount, PROT_READ, MAP_SHARED, descriptor, 0), start != MAP_FAILED
    else { throw BenchError("mmap \(path) failed: \(errno)") }
    bytes = UnsafeRawBufferPointer(start: start, count: byteCount)
  }

  deinit {
    // The same range that was mapped; readers hold a reference while they read.
    munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
  }

  func number(at position: Int) -> UInt32 { bytes.loadUnaligned(fromByteOffset: position, as: UInt32.self) }
}

/// Writes frames of events one after the other into a new file, for the limits that read. Returns the records' positions.
func writeFrames(_ shape: EventShape, events: Int, batch: Int, to path: String) throws -> [Int] {
  let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
  guard descriptor >= 0 else { throw BenchError("open \(path) failed: \(String(cString: strerror(errno)))") }
  defer { close(descriptor) }
  var places: [Int] = []
  places.reserveCapacity(events)
  var position = 0
  for first in stride(from: 0, to: events, by: batch) {
    let count = min(batch, events - first)
    let frame = shape.frame(count, first: first)
    for index in 0..<count { places.append(position + EventShape.frameHeaderBytes + index * shape.recordBytes) }
    guard pwrite(descriptor, frame, frame.count, off_t(position)) == frame.count else {
      throw BenchError("pwrite \(path) failed: \(String(cString: strerror(errno)))")
    }
    position += frame.count
  }
  return places
}

import Foundation

/// What Support/recorder.c wrote down of a disk, and the states in which a power cut may leave that disk: all that was
/// written before the last flush, and of what came after it any sectors.
struct RecordedDisk {
  private struct Operation {
    enum Kind: UInt64 {
      case write = 1, flush, zeros
    }

    var kind: Kind
    var position: Int
    var byteCount: Int
    /// Of the bytes in the record.
    var start: Int
    /// The record's length then.
    var end: Int
  }

  /// The largest piece of a write that is there as a whole or not at all.
  enum Atom: Int, CaseIterable, Sendable {
    /// What LogStore relies on; file systems rely on more for what is their own.
    case sector = 512
    case page = 4096
    /// Whole writes.
    case write = 0
  }

  private let operations: [Operation]
  private let record: Data
  /// The image as it is for sure at the last cut.
  private let base: FileHandle
  private let basePath: String
  /// Operations that are in it.
  private var settled = 0

  /// - Parameter base: the image as it was when the recording began; it is changed.
  init(record path: String, base basePath: String) throws {
    record = try Data(contentsOf: URL(fileURLWithPath: path), options: .alwaysMapped)
    guard let base = FileHandle(forUpdatingAtPath: basePath) else { throw HarnessError("no \(basePath)") }
    (self.base, self.basePath) = (base, basePath)
    var operations: [Operation] = []
    var at = 0
    while at + 24 <= record.count {
      let head = record[at..<at + 24].withUnsafeBytes { bytes in
        (0..<3).map { bytes.loadUnaligned(fromByteOffset: 8 * $0, as: UInt64.self) }
      }
      guard let kind = Operation.Kind(rawValue: head[0]) else { throw HarnessError("not a record at \(at)") }
      let start = at + 24
      at = start + (kind == .write ? Int(head[2]) : 0)
      operations.append(
        Operation(kind: kind, position: Int(head[1]), byteCount: Int(head[2]), start: start, end: at))
    }
    self.operations = operations
  }

  var operationCount: Int { operations.count }
  var flushCount: Int { operations.count { $0.kind == .flush } }

  /// The numbers of the flushes that follow a write.
  func flushes(from first: Int) -> [Int] {
    (max(first, 1)..<operations.count).filter { operations[$0].kind == .flush && operations[$0 - 1].kind != .flush }
  }

  /// Operations that were done when the record was so long.
  func operations(at recordByteCount: Int) -> Int {
    var low = 0
    var high = operations.count
    while low < high {
      let middle = (low + high) / 2
      if operations[middle].end <= recordByteCount { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// The record's length after so many operations.
  func recordByteCount(after count: Int) -> Int { count == 0 ? 0 : operations[count - 1].end }

  /// Makes the image that a power cut after so many operations may leave: everything, nothing or a part of what was not
  /// flushed. Cuts have to be made in order.
  /// - Returns: how many writes were at risk, and how many sectors of them are lost.
  mutating func makeState(
    at path: String, cut: Int, tearing atom: Atom, in scratch: TemporaryDirectory, using random: inout SeededGenerator
  ) async throws -> (atRisk: Int, lostSectors: Int) {
    let flush = operations[..<cut].lastIndex { $0.kind == .flush } ?? 0
    while settled < flush {
      try put(operations[settled], to: base)
      settled += 1
    }
    try await system(["cp", "--sparse=auto", "--reflink=never", basePath, path], in: scratch)
    guard let image = FileHandle(forUpdatingAtPath: path) else { throw HarnessError("no \(path)") }
    defer { try? image.close() }
    let share: Double = [0, 0.1, 0.5, 0.5, 0.9, 1].randomElement(using: &random) ?? 0.5
    var result = (atRisk: 0, lostSectors: 0)
    for operation in operations[flush..<cut] where operation.kind != .flush {
      result.atRisk += 1
      let piece = atom == .write ? operation.byteCount : atom.rawValue
      var at = 0
      while at < operation.byteCount {
        var part = operation
        part.byteCount = min(piece, operation.byteCount - at)
        part.position += at
        part.start += at
        if Double.random(in: 0..<1, using: &random) < share {
          try put(part, to: image)
        } else {
          result.lostSectors += max(1, part.byteCount / Atom.sector.rawValue)
        }
        at += part.byteCount
      }
    }
    return result
  }

  private func put(_ operation: Operation, to image: FileHandle) throws {
    guard operation.kind != .flush else { return }
    try image.seek(toOffset: UInt64(operation.position))
    let bytes =
      operation.kind == .write
      ? record[operation.start..<operation.start + operation.byteCount] : Data(count: operation.byteCount)
    try image.write(contentsOf: bytes)
  }
}

/// The destination of an index that is being written: a file, written and synced piece by piece, or memory. Not
/// thread-safe.
final class IndexOutput {
  /// Bytes written at once, at a multiple of their number: what one entry of a page table can map. A kernel that keeps such
  /// a piece together maps it with one entry, and address translation in queries is faster.
  static let pieceByteCount = 2 << 20
  /// Bytes synced at once. One sync of the whole file would delay the syncs of concurrent appends.
  static let syncByteCount = 4 << 20

  private let file: (any File)?
  private var memory: UnsafeMutableRawBufferPointer
  private var count = 0
  private var flushed = 0
  private var synced = 0
  /// Called after each piece. May do other work, or throw to stop.
  private let between: () throws(IndexFailure) -> Void

  /// - Parameter file: nil for memory.
  init(_ file: (any File)?, between: @escaping () throws(IndexFailure) -> Void = {}) {
    self.file = file
    self.between = between
    memory = .allocate(byteCount: Self.pieceByteCount, alignment: 64)
  }

  deinit {
    memory.deallocate()
  }

  /// The number of bytes so far, which is the position of the next byte.
  var position: Int { flushed + count }

  func append(_ bytes: UnsafeRawBufferPointer) throws(IndexFailure) {
    var bytes = bytes
    while bytes.count > memory.count - count {
      if file == nil {
        grow(by: bytes.count)
      } else {
        // Pieces are whole, so that the page cache never has to read one back.
        let room = memory.count - count
        copy(UnsafeRawBufferPointer(rebasing: bytes[..<room]))
        bytes = UnsafeRawBufferPointer(rebasing: bytes[room...])
        try flush()
        try between()
      }
    }
    copy(bytes)
  }

  func append(_ bytes: [UInt8]) throws(IndexFailure) {
    let result = bytes.withUnsafeBytes { bytes in
      Result { () throws(IndexFailure) in try self.append(bytes) }
    }
    try result.get()
  }

  /// Appends zeros up to a multiple of `unit`.
  func pad(to unit: Int) throws(IndexFailure) {
    try append([UInt8](repeating: 0, count: position.roundedUp(to: unit) - position))
  }

  /// Maps what was written so far, to be read again. Valid while nothing but ``append(_:)`` is called and the mapping is
  /// held.
  func readBack() throws(IndexFailure) -> Mapping {
    guard let file else {
      return Mapping(copying: Array(UnsafeRawBufferPointer(rebasing: memory[..<count])))
    }
    do throws(LogStoreError) {
      // The piece stays in memory, and is written again when it is whole.
      if count > 0 { try file.write(piece, at: UInt64(flushed)) }
      return try file.map(byteCount: position)
    } catch {
      throw .log(error)
    }
  }

  /// Writes the header at the start and makes the file durable under its current name, which may be a temporary one.
  func finish(header: [UInt8]) throws(IndexFailure) {
    guard let file else {
      memory.copyBytes(from: header)
      return
    }
    try flush()
    do throws(LogStoreError) {
      try file.write(header)
      try file.sync()
    } catch {
      throw .log(error)
    }
  }

  /// The finished bytes, if the output was memory.
  func takeMemory() -> Mapping {
    precondition(file == nil)
    let taken = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 1), alignment: 64)
    taken.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory[..<count]))
    return Mapping(bytes: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(taken)[..<count])) { _ in
      taken.deallocate()
    }
  }

  private var piece: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<count]) }

  private func copy(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count > 0 else { return }
    UnsafeMutableRawBufferPointer(rebasing: memory[count..<count + bytes.count]).copyMemory(from: bytes)
    count += bytes.count
  }

  private func grow(by more: Int) {
    let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: max(2 * memory.count, count + more), alignment: 64)
    larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory[..<count]))
    memory.deallocate()
    memory = larger
  }

  private func flush() throws(IndexFailure) {
    guard let file, count > 0 else { return }
    do throws(LogStoreError) {
      try file.write(piece, at: UInt64(flushed))
      flushed += count
      count = 0
      if flushed - synced >= Self.syncByteCount {
        try file.sync()
        synced = flushed
      }
    } catch {
      throw .log(error)
    }
  }
}

/// The reason why an index operation failed.
enum IndexFailure: Error {
  /// The log or the disk failed.
  case log(LogStoreError)
  /// An index file is wrong. `segment` is the number in the file of the segment to which a wrong address led.
  case index(IndexFile, Fault, segment: Int?)
  /// Records of another stream stand at the addresses of the wanted one, and the file is right: the streams share a key.
  case sharedKey
  /// The work was stopped, to be done at another time.
  case stopped
}

/// Writes a backup as one stream: what a directory's files would hold, one after the other, and the manifest at the end.
struct BackupStreamWriter {
  private let stream: any ByteStream

  init(_ stream: any ByteStream) {
    self.stream = stream
  }

  func write(
    _ image: LogImage, madeAt now: UInt64, _ progress: Progress?
  ) throws(LogStoreError) -> BackupReport {
    var report = BackupReport(image)
    var parts: [BackupPart] = []
    let total = try image.fileByteCount()
    var done: UInt64 = 0
    try stream.write(BackupStreamHeader(store: image.store).encoded())
    for base in image.bases {
      let (segment, part) = try image.read(base)
      let header = BackupPartHeader(part: part, isBehindGap: part.isBehindGap(after: parts.last))
      try stream.write(try header.checkedBytes(for: stream.path))
      try segment.forEachPiece(of: 0..<Int(part.contentByteCount)) { (piece, _) throws(LogStoreError) in
        try stream.write(piece)
      }
      parts.append(part)
      report.bytesCopied += part.contentByteCount
      done += try image.fileByteCount(base)
      progress?(done, total)
    }
    let manifest = BackupManifest(
      store: image.store, endOffset: image.end.offset, createdMicroseconds: now, parts: parts)
    try stream.write(try manifest.checkedBytes(for: stream.path))
    return report
  }
}

/// Reads a backup from a stream, part by part.
struct BackupStreamReader {
  enum Item {
    /// The part's bytes follow.
    case part(BackupPart)
    /// The end. It agrees with the parts before it.
    case end(BackupManifest)
  }

  private let stream: any ByteStream
  let store: StoreHeader
  private var parts: [BackupPart] = []
  private(set) var position: UInt64

  init(_ stream: any ByteStream) throws(LogStoreError) {
    self.stream = stream
    let bytes = try stream.read(count: BackupStreamHeader.byteCount)
    position = UInt64(bytes.count)
    store = try inBackup(at: 0) { () throws(LogStoreError) in
      try decode(bytes, of: stream.path, BackupStreamHeader.init)
    }.store
  }

  /// The next part, or the end. Read all bytes of the previous part first.
  mutating func next() throws(LogStoreError) -> Item {
    let start = position
    var bytes = try stream.read(count: BackupPartHeader.byteCount)
    position += UInt64(bytes.count)
    guard bytes.count == BackupPartHeader.byteCount else { throw cut }
    if bytes.starts(with: Array("\(BackupPartHeader.magic)".utf8)) {
      let path = stream.path
      let header = try inBackup(at: start) { () throws(LogStoreError) in
        try decode(bytes, of: path, BackupPartHeader.init)
      }
      let part = header.part
      guard part.continues(parts.last, orGap: header.isBehindGap) else {
        throw damage(start, "a segment that does not continue the one before it")
      }
      parts.append(part)
      return .part(part)
    }
    // No longer than the parts before allow, whatever the manifest claims.
    let expected = BackupManifest.headByteCount + parts.count * BackupPart.byteCount + 4
    bytes += try stream.read(count: expected - bytes.count)
    position = start + UInt64(bytes.count)
    guard bytes.count == expected else { throw cut }
    let path = stream.path
    let manifest = try inBackup(at: start) { () throws(LogStoreError) in
      try decode(bytes, of: path, BackupManifest.init)
    }
    guard manifest.parts == parts, manifest.store == store else {
      throw damage(start, "the backup's end belongs to another backup")
    }
    guard try stream.read(count: 1).isEmpty else { throw damage(position, "bytes behind the backup's end") }
    return .end(manifest)
  }

  /// Fills the buffer with bytes of the part.
  mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(LogStoreError) {
    let count = try stream.read(into: buffer)
    position += UInt64(count)
    guard count == buffer.count else { throw cut }
  }

  private var cut: LogStoreError { damage(position, "the backup is cut off here: it has no end mark") }

  private func damage(_ position: UInt64, _ reason: String) -> LogStoreError {
    .backupDamaged(Damage(file: stream.path, position: position, reason: reason))
  }
}

/// Reports damage as damage in a backup, with positions that count from the start of the backup.
func inBackup<Value>(
  at start: UInt64, _ body: () throws(LogStoreError) -> Value
) throws(LogStoreError) -> Value {
  do throws(LogStoreError) {
    return try body()
  } catch .damaged(var damage) {
    damage.position += start
    throw .backupDamaged(damage)
  }
}

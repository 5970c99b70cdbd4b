@testable import LogStore

/// Backups that were changed: restored, and made anew over.
enum BackupTarget {
  private static let directory = "/backup"
  private static let stream = "/stream"
  private static let restored = "/restored"

  /// A seed's backup in a directory.
  private struct Source: Sendable {
    var seed: Seed
    var files: [String: [UInt8]]
    var names: [String]
    var fields: [String: [Fields.Field]]
  }

  private static let sources: [Source] = Seed.all.map { seed in
    let disk = seed.disk
    do throws(LogStoreError) {
      _ = try BackupRun(directory: Seed.directory, disk: disk, progress: nil).run(to: .directory(directory))
    } catch {
      broken("a sound store can be backed up: \(error)")
    }
    var files: [String: [UInt8]] = [:]
    for (path, memory) in disk.files where path.hasPrefix(directory + "/") && !path.hasSuffix("/lock") {
      files[String(path.dropFirst(directory.utf8.count + 1))] = Array(memory.bytes)
    }
    // As often the manifest's as those of all segments together.
    let names = files.keys.sorted() + files.keys.map { _ in BackupFileName.manifest }
    let fields = files.reduce(into: [:]) { fields, file in
      fields[file.key] = Fields.of(file.key == BackupFileName.manifest ? file.key : "segment.log", file.value)
    }
    return Source(seed: seed, files: files, names: names, fields: fields)
  }

  static func run(_ input: inout InputReader) {
    let choices = input.byte()
    let source = sources[Int(choices) % sources.count]
    let untilChoice = input.byte()
    let until: UInt64? =
      untilChoice & 1 == 0 ? nil : untilChoice & 2 == 0 ? UInt64(untilChoice) * 3 : input.number(bytes: 8)
    var edits = Edits(source.files, names: source.names, fields: source.fields)
    edits.apply(&input, atMost: choices & 0x08 == 0 ? 8 : 2) { _ in true }
    edits.settle(against: source.files)
    let isResealed = choices & 0x40 != 0
    var files = edits.files
    if isResealed { reseal(&files, fixLengths: choices & 0x10 == 0) }
    let disk = source.seed.disk
    var isChanged = files != source.files
    if choices & 0x80 != 0 {
      var bytes = assemble(files)
      isChanged = change(&bytes, &input) || isChanged
      disk.set(stream, bytes)
      restore(.file(stream), disk, source.seed, until, isResealed: isResealed, isChanged: isChanged)
    } else {
      for (name, bytes) in files { disk.set(join(directory, name), bytes) }
      _ = try? disk.makeDirectory(directory)
      restore(.directory(directory), disk, source.seed, until, isResealed: isResealed, isChanged: isChanged)
      if choices & 0x20 != 0 { backUpAgain(disk, source.seed, isResealed: isResealed) }
    }
  }

  private static func restore(
    _ location: BackupLocation, _ disk: MemoryDisk, _ seed: Seed, _ until: UInt64?, isResealed: Bool, isChanged: Bool
  ) {
    do throws(LogStoreError) {
      let report = try Restoration.run(from: location, to: restored, until: until, disk: disk, progress: nil)
      let (follower, commitPoint, recovery) = try Follower.open(restored, disk: disk, follows: false)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      promise(reader.endOffset == report.endOffset, "the restored log ends where the report says")
      let events = try reader.events(from: 0, limit: .max)
      promise(UInt64(events.count) == report.endOffset, "all of it can be read")
      if let until { promise(report.endOffset == until, "the log ends with the offset that was asked for") }
      if !isResealed {
        promise(events == Array(seed.events.prefix(events.count)), "what is restored is what was appended")
        if until == nil { promise(events.count == seed.events.count, "nothing is missing") }
      }
    } catch {
      promise(isChanged || (until ?? 0) > UInt64(seed.events.count), "a sound backup is restored: \(error)")
      let names = (try? disk.list(restored)) ?? []
      promise(names.isEmpty, "there is no store after a failure: \(names)")
      switch error {
      case .backupDamaged, .backupRefused, .unsupportedFormat: break
      case .diskFull: promise(isResealed, "only a length that was made up fills the disk")
      default: broken("another error than one of the backup's: \(error)")
      }
    }
  }

  /// Onto what is there: refused, or made whole.
  private static func backUpAgain(_ disk: MemoryDisk, _ seed: Seed, isResealed: Bool) {
    do throws(LogStoreError) {
      _ = try BackupRun(directory: Seed.directory, disk: disk, progress: nil).run(to: .directory(directory))
    } catch {
      switch error {
      case .backupDamaged, .backupRefused, .unsupportedFormat: return
      default: broken("another error than one of the backup's: \(error)")
      }
    }
    do throws(LogStoreError) {
      let report = try Restoration.run(
        from: .directory(directory), to: "/again", until: nil, disk: disk, progress: nil)
      promise(report.endOffset == UInt64(seed.events.count), "a backup that succeeded is the log")
    } catch {
      // Parts that the manifest lists and whose checksums fit are taken for the finished segments that they were.
      promise(isResealed, "a backup that succeeded can be restored: \(error)")
    }
  }

  /// Segments, what the manifest says of them, and the manifest, made to agree again.
  private static func reseal(_ files: inout [String: [UInt8]], fixLengths: Bool) {
    guard var manifest = files[BackupFileName.manifest], manifest.count >= BackupManifest.headByteCount else { return }
    for at in stride(from: BackupManifest.headByteCount, to: manifest.count - 35, by: BackupPart.byteCount) {
      let base: UInt64 = manifest.withUnsafeBytes { $0.integer(at: at) }
      let prefix = FileName.segment(base).dropLast(4) + "-"
      guard let name = files.keys.sorted().first(where: { $0.hasPrefix(prefix) }), var bytes = files[name] else {
        continue
      }
      let chain = Resealing.segment(&bytes, chained: true)
      files[name] = nil
      let sum = bytes.withUnsafeBytes(checksum)
      manifest.withUnsafeMutableBytes { manifest in
        if fixLengths { manifest.set(UInt64(bytes.count), at: at + 16) }
        manifest.set(sum, at: at + 24)
        manifest.set(chain, at: at + 28)
      }
      files[
        BackupFileName.part(
          BackupPart(baseOffset: base, endOffset: base, contentByteCount: 0, checksum: sum, chain: chain))] = bytes
    }
    Resealing.envelope(&manifest, byteCount: manifest.count)
    files[BackupFileName.manifest] = manifest
  }

  /// The same backup as a stream.
  private static func assemble(_ files: [String: [UInt8]]) -> [UInt8] {
    let manifest = files[BackupFileName.manifest] ?? []
    var header = [UInt8](repeating: 0, count: BackupStreamHeader.byteCount)
    header.replaceSubrange(0..<8, with: Array("\(BackupStreamHeader.magic)".utf8))
    if manifest.count >= 40 {
      header.replaceSubrange(8..<12, with: manifest[8..<12])
      header.replaceSubrange(16..<40, with: manifest[16..<40])
    }
    Resealing.envelope(&header, byteCount: 64)
    var bytes = header
    for at in stride(from: BackupManifest.headByteCount, to: max(manifest.count - 35, 0), by: BackupPart.byteCount) {
      var head = [UInt8](repeating: 0, count: BackupPartHeader.byteCount)
      head.replaceSubrange(0..<8, with: Array("\(BackupPartHeader.magic)".utf8))
      head[8] = 1
      head.replaceSubrange(16..<48, with: manifest[at..<at + 32])
      Resealing.envelope(&head, byteCount: 64)
      bytes += head
      let base: UInt64 = manifest.withUnsafeBytes { $0.integer(at: at) }
      let prefix = FileName.segment(base).dropLast(4) + "-"
      if let name = files.keys.sorted().first(where: { $0.hasPrefix(prefix) }) { bytes += files[name] ?? [] }
    }
    return bytes + manifest
  }

  /// What is left of the input changes the stream as it is. Whether it did.
  private static func change(_ bytes: inout [UInt8], _ input: inout InputReader) -> Bool {
    let before = bytes
    for _ in 0..<4 where !input.isAtEnd {
      let position = input.index(below: bytes.count)
      switch input.byte() % 5 {
      case 0: bytes[position] = input.byte()
      case 1: bytes.removeLast(bytes.count - position)
      case 2: bytes += input.take(8)
      case 3: bytes.removeSubrange(position..<min(position + Int(input.byte()), bytes.count))
      default: bytes.insert(contentsOf: bytes[position..<min(position + 64, bytes.count)], at: position)
      }
      if bytes.isEmpty { break }
    }
    return bytes != before
  }
}

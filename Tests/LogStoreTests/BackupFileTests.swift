import Foundation
import Testing

@testable import LogStore

/// What is beside a backup in a file under the name that the unfinished one needs.
@Suite struct BackupFileTests {
  let directory: TemporaryDirectory
  private var store: String { directory.file("store") }
  private var other: String { directory.file("other") }
  private var file: String { directory.file("orders") }
  private var aside: String { directory.file("orders.tmp") }

  init() throws {
    directory = TemporaryDirectory()
    try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
  }

  private func append(_ count: Int, to path: String) async throws {
    let log = try LogStore.open(path, options: smallSegments())
    for number in 0..<count {
      _ = try await log.append(Append(event("s", "\(number)" + String(repeating: "p", count: 200))))
    }
    try await log.close()
  }

  private func bytes(of path: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(fileURLWithPath: path))) }
  private func utf8(_ text: String) -> [UInt8] { Array(text.utf8) }

  @Test("the name of the unfinished file is taken from nothing but an unfinished backup")
  func unfinishedName() async throws {
    try await append(400, to: store)
    try await append(400, to: other)
    func put(_ bytes: [UInt8]) throws {
      try Data(bytes).write(to: URL(fileURLWithPath: aside))
      try FileManager.default.setAttributes([.posixPermissions: 0o640], ofItemAtPath: aside)
    }
    func made(_ store: String) throws -> [UInt8] {
      let made = directory.file("made")
      _ = try LogStore.backup(store, to: .file(made))
      defer { _ = unlink(made) }
      return try bytes(of: made)
    }
    let foreign = try made(other)
    let own = try made(store)
    var damaged = own
    damaged[own.count / 2] ^= 1
    var damagedEnd = own
    damagedEnd[own.count - 1] ^= 1
    let refused = [
      foreign, damaged, damagedEnd, utf8("an hour's work"), [1], [UInt8](repeating: 0, count: 5000) + [1],
      utf8("LSBACKUP"),
    ]
    for left in refused {
      try put(left)
      for replaces in [false, true] {
        await expectThrows({ if case .backupRefused(aside, _) = $0 { true } else { false } }) {
          () throws(LogStoreError) in _ = try LogStore.backup(store, to: .file(file), replaces: replaces)
        }
      }
      #expect(try bytes(of: aside) == left)
      #expect(!FileManager.default.fileExists(atPath: file))
      guard !left.starts(with: utf8("LSBSTREM")) else { continue }
      #expect(try FileManager.default.attributesOfItem(atPath: aside)[.posixPermissions] as? Int == 0o640)
    }
    let cuts = [1, 8, 63, 64, 4999, own.count / 2, own.count - 40, own.count - 1]
    for left in [[], [UInt8](repeating: 0, count: 5000)] + cuts.map({ Array(own.prefix($0)) }) {
      try put(left)
      #expect(try LogStore.backup(store, to: .file(file)).endOffset == 400)
      #expect(!FileManager.default.fileExists(atPath: aside))
      #expect(try LogStore.restore(from: .file(file), to: directory.file("r\(left.count)")).endOffset == 400)
      try FileManager.default.removeItem(atPath: file)
    }
  }

  @Test("a backup whose run was killed before it had its name gets it from the next run")
  func killedBeforeRename() async throws {
    try await append(100, to: store)
    _ = try LogStore.backup(store, to: .file(aside))
    try await append(100, to: store)
    // The run fails behind the start: what was finished is not lost.
    let disk = FailingDisk(suffix: "orders.tmp")
    await expectThrows({ if case .inputOutput = $0 { true } else { false } }) { () throws(LogStoreError) in
      _ = try BackupRun(directory: store, disk: disk, progress: nil).run(to: .file(file))
    }
    #expect(try LogStore.restore(from: .file(file), to: directory.file("r1")).endOffset == 100)
    #expect(try LogStore.backup(store, to: .file(file)).endOffset == 200)
    // An older one beside it is in it already.
    _ = try LogStore.backup(store, to: .file(aside))
    let older = try bytes(of: aside)
    try await append(100, to: store)
    #expect(try LogStore.backup(store, to: .file(file)).endOffset == 300)
    try Data(older).write(to: URL(fileURLWithPath: aside))
    #expect(try LogStore.backup(store, to: .file(file)).endOffset == 300)
    #expect(try LogStore.restore(from: .file(file), to: directory.file("r2")).endOffset == 300)
    #expect(!FileManager.default.fileExists(atPath: aside))
  }
}

/// A disk that opens one file for writing never.
private struct FailingDisk: RealDiskDouble {
  let real = RealDisk()
  let suffix: String

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    if mode == .rewrite, path.hasSuffix(suffix) { throw .inputOutput(operation: "open", path: path, code: EIO) }
    return try real.open(path, mode)
  }
}

import Foundation
import Glibc
import Testing

@testable import LogStore

/// What has a file's name and is no file.
enum NoFile: String, CaseIterable, Sendable {
  case directory, fullDirectory, danglingLink, circularLink, pipe, socket

  /// Replaces a file by it.
  func put(at path: String) throws {
    if FileManager.default.fileExists(atPath: path) { try FileManager.default.removeItem(atPath: path) }
    switch self {
    case .directory: try #require(mkdir(path, 0o700) == 0)
    case .fullDirectory: try FileManager.default.createDirectory(atPath: path + "/a", withIntermediateDirectories: true)
    case .danglingLink: try #require(symlink("nowhere", path) == 0)
    case .circularLink: try #require(symlink((path as NSString).lastPathComponent, path) == 0)
    case .pipe: try #require(mkfifo(path, 0o600) == 0)
    case .socket: try #require(mknod(path, S_IFSOCK | 0o600, 0) == 0)
    }
  }
}

@Suite struct FileKindTests {
  let directory = TemporaryDirectory()

  @Test(
    "nothing but a file is opened as one, and nothing holds the thread: neither a pipe without a writer nor a device",
    arguments: [FileMode.read, .readWrite])
  func refused(_ mode: FileMode) throws {
    try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
    for kind in NoFile.allCases {
      let path = directory.file(kind.rawValue)
      try kind.put(at: path)
      #expect(throws: LogStoreError.self, "\(kind)") { _ = try RealDisk().open(path, mode) }
    }
    for path in ["/dev/zero", "/dev/null"] {
      let error = #expect(throws: LogStoreError.self) { _ = try RealDisk().open(path, mode) }
      guard case .damaged(let found) = error else {
        Issue.record("\(path): \(String(describing: error))")
        continue
      }
      #expect(found.file == path && found.reason.contains("a pipe or a device"))
    }
  }

  /// Makes a closed store with 600 events in several segments. Returns their names and the offsets that they begin with.
  private func fill() async throws -> (names: [String], bases: [UInt64]) {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for number in 0..<600 {
      _ = try await store.append(Append(event("s", String(repeating: "p", count: 200) + "\(number)")))
    }
    try await store.waitUntilIndexed()
    try await store.close()
    let names = directory.names(".log")
    try #require(names.count > 2)
    return (names, names.compactMap { FileName.baseOffset($0, suffix: ".log") })
  }

  @Test(
    "repair, and reading a damaged store, save what stands beside a name that is no file, be it a segment's or an index's",
    arguments: NoFile.allCases, [".log", ".idx"])
  func savesTheRest(_ kind: NoFile, _ suffix: String) async throws {
    let (names, bases) = try await fill()
    let isSegment = suffix == ".log"
    try kind.put(at: directory.file(isSegment ? names[1] : try #require(directory.names(suffix).first)))
    let count = isSegment ? 600 - (bases[2] - bases[1]) : 600
    let target = TemporaryDirectory()
    #expect(try LogStore.repair(directory.path, to: target.path).events == count)
    #expect(try DamagedLog(directory.path).statistics().statistics.events == count)
    let report = try LogStore.verify(directory.path)
    #expect(report.events == count && !report.findings.isEmpty)
  }

  @Test("a reader beside a name that is no file reads what stands in the others", arguments: NoFile.allCases)
  func passedOver(_ kind: NoFile) async throws {
    var options = smallSegments()
    options.servesDamaged = true
    let (names, bases) = try await fill()
    let path = directory.file(names[1])
    let bytes = try content(path)
    try kind.put(at: path)
    let opened = try LogStore.open(directory.path, options: options)
    #expect(opened.recovery.damagedFiles.map(\.file) == [path])
    var passed: [DamagedRange] = []
    var offsets: [UInt64] = []
    try opened.reader.forEach(from: 0, passingOver: { passed.append($0) }) { event in
      offsets.append(event.offset)
      return true
    }
    #expect(passed.map(\.offsets) == [bases[1]..<bases[2]], "\(passed)")
    #expect(offsets == Array(0..<bases[1]) + Array(bases[2]..<600))
    #expect(throws: LogStoreError.self) { try opened.reader.forEach(from: bases[1]) { _ in true } }
    _ = try await opened.append(Append(event("t", "more")))
    try FileManager.default.removeItem(atPath: path)
    try Data(bytes).write(to: URL(fileURLWithPath: path))
    try await opened.close()
    #expect(try LogStore.verify(directory.path).findings.isEmpty)
  }
}

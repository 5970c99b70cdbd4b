import Foundation
import Testing

@testable import LogStore

/// The working directory changed, and the store's directory moved or removed, while the store is open.
@Suite(.timeLimit(.minutes(15))) struct MovedDirectoryTests {
  let directory = TemporaryDirectory()

  static func isMoved(_ error: LogStoreError?, _ path: String) -> Bool {
    if case .moved(path, _)? = error { true } else { false }
  }

  @Test("a relative path is resolved on opening: then the process may change its directory")
  func changedDirectory() async {
    await #expect(processExitsWith: .success) {
      let directory = TemporaryDirectory()
      try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
      try #require(chdir(directory.path) == 0)
      let store = try LogStore.open("orders.log", options: smallSegments())
      let payload = String(repeating: "x", count: 3000)
      for _ in 0..<60 { _ = try await store.append(Append(event("s", payload))) }
      let other = try LogReader.open("./orders.log/")
      try #require(chdir("/") == 0)
      for _ in 0..<60 { _ = try await store.append(Append(event("s", payload))) }
      #expect(try await other.waitForEvents(at: 119))
      // Also segments that it has not opened yet, from the oldest on.
      for reader in [store.reader, other] {
        #expect(try reader.events(from: 0, limit: .max).map(\.offset) == Array(0..<120))
        #expect(try reader.stream("s").count == 120)
      }
      #expect(try other.statistics().segments > 4)
      other.close()
      try await store.close()
      #expect(FileManager.default.fileExists(atPath: directory.file("orders.log/clean")))
      try FileManager.default.removeItem(atPath: directory.path)
    }
  }

  func lose(_ loss: Loss) throws {
    let files = FileManager.default
    switch loss {
    case .removed: try files.removeItem(atPath: directory.path)
    case .moved: try files.moveItem(atPath: directory.path, toPath: directory.path + ".moved")
    case .replaced:
      try files.moveItem(atPath: directory.path, toPath: directory.path + ".moved")
      try files.createDirectory(atPath: directory.path, withIntermediateDirectories: false)
    }
  }

  func removeMoved() throws {
    let path = directory.path + ".moved"
    if FileManager.default.fileExists(atPath: path) { try FileManager.default.removeItem(atPath: path) }
  }

  @Test("a writer without anything to write notices, and waiting readers are notified", arguments: Loss.allCases)
  func idleWriter(_ loss: Loss) async throws {
    let path = directory.path
    let store = try LogStore.open(path, options: smallSegments())
    _ = try await store.append(Append(event("s")))
    let waiting = Task { try await store.reader.waitForEvents(at: 1) }
    try lose(loss)
    #expect(Self.isMoved(await failure(of: waiting), path))
    #expect(Self.isMoved(store.failure, path))
    await expectStopped(naming: path) { () async throws(LogStoreError) in try await store.append(Append(event("s"))) }
    // Durable events can still be read; waiting for them is no wait.
    #expect(try await store.reader.waitForEvents(at: 0))
    #expect(try store.reader.stream("s").count == 1)
    await expectStopped(naming: path) { () async throws(LogStoreError) in try await store.close() }
    if loss == .replaced { #expect(try FileManager.default.contentsOfDirectory(atPath: path).isEmpty) }
    try removeMoved()
  }

  @Test("a writer at work stops, and names the directory", arguments: Loss.allCases, [false, true])
  func busyWriter(_ loss: Loss, isBuffered: Bool) async throws {
    let path = directory.path
    let store = try LogStore.open(path, options: smallSegments())
    for _ in 0..<10 { _ = try await store.append(Append(event("s"))) }
    try lose(loss)
    let failure = await failureAtWork(of: store, isBuffered: isBuffered)
    switch failure {
    case .moved(path, _): break
    case .stopped(let cause): #expect(cause.contains(path))
    default: Issue.record("\(failure?.description ?? "everything was acknowledged")")
    }
    #expect(Self.isMoved(store.failure, path))
    if loss == .replaced { #expect(try FileManager.default.contentsOfDirectory(atPath: path).isEmpty) }
    try removeMoved()
  }

  @Test("a reader beside a writer, or beside none, ends and says why", arguments: Loss.allCases, [false, true])
  func reader(_ loss: Loss, besideWriter: Bool) async throws {
    let path = directory.path
    let store = try LogStore.open(path, options: smallSegments())
    _ = try await store.append(Append(event("s")))
    if !besideWriter { try await store.close() }
    let reader = try LogReader.open(path)
    let waiting = Task { try await reader.waitForEvents(at: 1) }
    let cursor = Task { () async throws -> Bool in
      var cursor = reader.cursor(from: 0)
      repeat {
        while try cursor.next() != nil {}
      } while try await cursor.waitForMore()
      return false
    }
    try lose(loss)
    #expect(Self.isMoved(await failure(of: waiting), path))
    #expect(Self.isMoved(await failure(of: cursor), path))
    await expectThrows({ Self.isMoved($0, path) }) { () async throws(LogStoreError) in try reader.stream("s") }
    // After it is closed, it still reports that.
    reader.close()
    await expectThrows({ Self.isMoved($0, path) }) { () async throws(LogStoreError) in
      try reader.events(from: 0, limit: 1)
    }
    withExtendedLifetime(store) {}
    try removeMoved()
  }

  /// A follower without a `tail` to watch polls for it all the time, and compares the directory once a second. So it first
  /// meets what lies there now.
  @Test(
    "a reader that fails in a replaced directory says that the directory is another",
    arguments: [false, true])
  func readerFails(byOtherStore: Bool) async throws {
    let (path, other) = (directory.path, directory.path + ".other")
    let store = try LogStore.open(path, options: smallSegments())
    _ = try await store.append(Append(event("s")))
    try await store.close()
    try FileManager.default.removeItem(atPath: directory.file("tail"))
    if byOtherStore {
      // Its `tail` names a segment that the opened store does not have.
      let store = try LogStore.open(other, options: smallSegments())
      _ = try await store.append(Append(event("s")))
      try await store.close()
    } else {
      // No name exists below a file.
      try Data().write(to: URL(fileURLWithPath: other))
    }
    let reader = try LogReader.open(path)
    let waiting = Task { try await reader.waitForEvents(at: 1) }
    try lose(.moved)
    try FileManager.default.moveItem(atPath: other, toPath: path)
    let failure = await failure(of: waiting)
    #expect(Self.isMoved(failure, path), "\(failure?.description ?? "none")")
    await expectThrows({ Self.isMoved($0, path) }) { () async throws(LogStoreError) in try reader.stream("s") }
    reader.close()
    try removeMoved()
  }

  @Test("what is no path is refused, by every call that takes one", arguments: ["", "a\0b", "/tmp/a\0"])
  func noPath(_ path: String) async throws {
    let sound = directory.path
    try await LogStore.open(sound, options: smallSegments()).close()
    let calls: [(String) throws -> Void] = [
      { _ = try LogStore.open($0) },
      { _ = try LogReader.open($0) },
      { _ = try DamagedLog($0).statistics() },
      { _ = try LogStore.verify($0) },
      { _ = try LogStore.reindex($0) },
      { _ = try LogStore.backup($0, to: .file(sound + ".backup")) },
      { _ = try LogStore.backup(sound, to: .file($0)) },
      { _ = try LogStore.backup(sound, to: .directory($0)) },
      { _ = try LogStore.restore(from: .file($0), to: sound + ".restored") },
      { _ = try LogStore.restore(from: .file(sound), to: $0) },
      { _ = try LogStore.repair($0, to: sound + ".repaired") },
      { _ = try LogStore.repair(sound, to: $0) },
    ]
    for call in calls {
      do {
        try call(path)
        Issue.record("it was taken")
      } catch LogStoreError.invalidArgument {
        // As expected.
      }
    }
    for name in ["a", ".backup", ".restored", ".repaired"] {
      let made = name == "a" ? "a" : sound + name
      let isMade = FileManager.default.fileExists(atPath: made)
      #expect(!isMade, "\(made)")
      if isMade { try FileManager.default.removeItem(atPath: made) }
    }
  }
}

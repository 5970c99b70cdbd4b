import Crypto
import Foundation
import GRDB
import HTTPTypes
import Hummingbird
import LogStore
import Synchronization
import Testing

@testable import RegisPay

@Suite("API keys")
struct KeyTests {
  @Test("a key is long, differs from any other, and shows its secret only when it is asked for")
  func made() throws {
    let key = APIKey()
    #expect(key.text.wholeMatch(of: /rp_[0-9a-f]{12}_[0-9a-f]{72}/) != nil)
    #expect(APIKey(key.text) == key)
    #expect(APIKey().text != key.text)
    #expect("\(key)" == "rp_\(key.id)_…")
    #expect(String(reflecting: key) == "rp_\(key.id)_…")
  }

  @Test("a key with any character changed, missing or added is refused as malformed")
  func mistyped() {
    let text = Array(APIKey().text)
    for place in text.indices {
      var changed = text
      changed[place] = text[place] == "0" ? "1" : "0"
      #expect(APIKey(String(changed)) == nil, "\(place)")
      changed.remove(at: place)
      #expect(APIKey(String(changed)) == nil, "\(place)")
    }
    #expect(APIKey(String(text) + "0") == nil)
    #expect(APIKey("") == nil)
    #expect(APIKey(String(text).uppercased()) == nil)
  }

  @Test("bytes are compared as a whole: a difference at any place counts")
  func comparison() {
    let bytes: [UInt8] = (0..<32).map { $0 }
    #expect(equalInConstantTime(bytes, bytes))
    for place in bytes.indices {
      var other = bytes
      other[place] ^= 0x80
      #expect(!equalInConstantTime(bytes, other))
    }
    #expect(!equalInConstantTime(bytes, bytes.dropLast()))
  }

  @Test("the file holds no secret, and nobody else may read it")
  func atRest() async throws {
    try await withTemporaryFolder { folder in
      let store = try KeyStore.open(folder)
      let key = try store.create(name: "shop", scopes: [.write], lifetimeSeconds: nil)
      let bytes = try Data(contentsOf: URL(fileURLWithPath: store.path))
      let secret = key.text.suffix(72)
      #expect(bytes.range(of: Data(key.id.utf8)) != nil)
      for start in stride(from: 0, to: 64, by: 8) {
        #expect(bytes.range(of: Data(secret.dropFirst(start).prefix(16).utf8)) == nil)
      }
      let mode = try FileManager.default.attributesOfItem(atPath: store.path)[.posixPermissions] as? Int
      #expect(mode == 0o600)
    }
  }

  @Test("a key is found until it is revoked or expires, and a wrong secret with a known id is not")
  func found() async throws {
    try await withTemporaryFolder { folder in
      let store = try KeyStore.open(folder)
      let key = try store.create(name: "a", scopes: [.read, .operate], lifetimeSeconds: 100)
      let stored = try #require(try store.all().first)
      let ring = KeyRing([stored])
      let made = stored.createdSeconds
      #expect(try ring.find(key.text, atSeconds: made).scopes == [.read, .operate])
      #expect(ring.entries[key.id]?.lastUsedSeconds.load(ordering: .relaxed) == made)
      #expect(throws: KeyRing.Refusal.invalid) { try ring.find(key.text, atSeconds: made + 100) }
      #expect(throws: KeyRing.Refusal.invalid) { try ring.find(APIKey().text, atSeconds: made) }
      #expect(throws: KeyRing.Refusal.malformed) { try ring.find("rp_x", atSeconds: made) }
      var forged = stored
      forged.hash = APIKey().hash
      #expect(throws: KeyRing.Refusal.invalid) { try KeyRing([forged]).find(key.text, atSeconds: made) }
      #expect(try store.revoke(key.id))
      #expect(try !store.revoke("0"))
      let revoked = KeyRing(try store.all())
      #expect(throws: KeyRing.Refusal.invalid) { try revoked.find(key.text, atSeconds: made) }
      #expect(!revoked.isEmpty, "a server that required keys still does")
    }
  }

  @Test("a file of an earlier version is read and added to, and its keys' requests are found for a day")
  func migrated() async throws {
    try await withTemporaryFolder { folder in
      let old = try DatabaseQueue(path: folder + "/keys.sqlite")
      let now = Int64(Date().timeIntervalSince1970)
      let key = APIKey()
      try await old.write { database in
        try database.execute(
          sql: """
            CREATE TABLE key (
              id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, scopes TEXT NOT NULL, hash BLOB NOT NULL,
              created INTEGER NOT NULL, expiry INTEGER, revoked INTEGER, lastUsed INTEGER
            ) STRICT;
            PRAGMA user_version = 1
            """)
        try database.execute(
          sql: "INSERT INTO key (id, name, scopes, hash, created) VALUES (?, 'shop', 'write', ?, ?)",
          arguments: [key.id, Data(key.hash), now - 1_000])
      }
      let store = try KeyStore.open(folder)
      _ = try store.create(name: "shop", scopes: [.write], lifetimeSeconds: nil)
      _ = try store.create(name: "shop 2", owner: "other", scopes: [.write], lifetimeSeconds: nil)
      let ring = KeyRing(try store.all())
      let found = try ring.find(key.text, atSeconds: now)
      #expect(found.owner == "shop" && found.scopes == [.write])
      #expect(ring.formerIDs(of: "shop") == [key.id])
      #expect(ring.formerIDs(of: "other") == [])
      #expect(try KeyStore.open(folder).all().map(\.owner).sorted() == ["other", "shop", "shop"])
      // An earlier program continues to use the file.
      try await old.write { database in
        try database.execute(
          sql: "INSERT INTO key (id, name, scopes, hash, created) VALUES ('x', 'late', 'read', x'00', ?)",
          arguments: [now])
      }
      #expect(try store.all().contains { $0.owner == "late" })
    }
  }

  @Test("what was kept under a key's id by an earlier version is found by the key that replaces it")
  func formerRequests() throws {
    let request = Request(
      head: .init(
        method: .post, scheme: nil, authority: nil, path: "/a", headerFields: [.idempotencyKey: "same"]),
      body: .init(buffer: .init()))
    func stored(_ id: String, since: Int64) -> StoredKey {
      StoredKey(
        id: id, name: "shop", owner: "shop", ownerSinceSeconds: since, scopes: [], hash: [], createdSeconds: 100)
    }
    let (old, new) = (stored("aaaaaaaaaaaa", since: 200), stored("bbbbbbbbbbbb", since: 100))
    let ring = KeyRing([old, new])
    // As it was computed before: of the id, a line break and the client's key.
    let digest = hexadecimal(SHA256.hash(data: Data("aaaaaaaaaaaa\nsame".utf8)))
    // Of the time before the first key.
    let keyless = hexadecimal(SHA256.hash(data: Data("\nsame".utf8)))
    for key in [old, new] {
      let owner = RequestOwner(key, in: ring)
      #expect(try IdempotencyKey(request, body: [], owner: owner)?.formerDigests == [digest, keyless])
    }
    let digests = try [old, new].map {
      try IdempotencyKey(request, body: [], owner: RequestOwner($0, in: ring))?.digest
    }
    #expect(digests[0] == digests[1])
  }

  @Test("a change by another process is seen, a use is written down, and a removed file lets nobody in")
  func watched() async throws {
    try await withFolderAndLog { folder, log in
      let watch = try KeyWatch(folder, log: log, health: Health(stores: []), logger: silent)
      #expect(watch.ring.isEmpty)
      let other = try KeyStore.open(folder)
      let key = try other.create(name: "a", scopes: [.read], lifetimeSeconds: nil)
      try watch.reloadIfChanged()
      #expect(try watch.ring.find(key.text, atSeconds: 1_900_000_000).name == "a")
      try watch.recordUse(ofAll: false)
      #expect(try other.all().first?.lastUsedSeconds == 1_900_000_000, "the first use, at once")
      _ = try watch.ring.find(key.text, atSeconds: 1_900_000_010)
      try watch.recordUse(ofAll: false)
      #expect(try other.all().first?.lastUsedSeconds == 1_900_000_000, "later ones now and then")
      try watch.recordUse()
      #expect(try other.all().first?.lastUsedSeconds == 1_900_000_010)
      try FileManager.default.removeItem(atPath: other.path)
      #expect(throws: KeyStoreError.self) { try watch.reloadIfChanged() }
      #expect(!watch.ring.isEmpty)
      _ = try KeyStore.open(folder)
      for _ in 0..<2 {
        let error = #expect(throws: KeyStoreError.self) { try watch.reloadIfChanged() }
        #expect(error?.reason.contains("holds no key") == true, "said at each check")
      }
      #expect(!watch.ring.isEmpty, "an empty file in its place neither")
      let again = try KeyStore.open(folder).create(name: "b", scopes: [.read], lifetimeSeconds: nil)
      try watch.reloadIfChanged()
      #expect(watch.ring.entries.keys.sorted() == [again.id])
    }
  }

  private func withFolderAndLog(_ work: (String, PaymentLog) async throws -> Void) async throws {
    try await withTemporaryFolder { folder in
      try await withStore { store in try await work(folder, PaymentLog(store)) }
    }
  }

  /// Watches until the log records that keys were created.
  private func noteRequired(_ folder: String, _ log: PaymentLog) async throws {
    let watch = try KeyWatch(folder, log: log, health: Health(stores: []), logger: silent)
    let task = Task { await watch.run(every: .milliseconds(5)) }
    defer { task.cancel() }
    try await eventually("it is on the log") { try log.reader.cursor(KeyWatch.checkpointName) == 0 }
  }

  @Test("a start without the keys that were made once is refused, until there is a key again or everybody is meant")
  func keysGone() async throws {
    try await withFolderAndLog { folder, log in
      let open = { (isInsecure: Bool) in
        try KeyWatch(folder, log: log, isInsecure: isInsecure, health: Health(stores: []), logger: silent)
      }
      #expect(try open(false).ring.isEmpty, "none was made yet")
      _ = try KeyStore.open(folder).create(name: "a", scopes: [.read], lifetimeSeconds: nil)
      try await noteRequired(folder, log)
      let path = KeyStore.path(in: folder)
      try FileManager.default.removeItem(atPath: path)
      let gone = try #require(throws: KeyStoreError.self) { try open(false) }
      #expect(gone.kind == .gone && gone.description.contains("it is gone"), "\(gone)")
      #expect(!FileManager.default.fileExists(atPath: path), "nothing stands in the way of a copy")
      #expect(try open(true).ring.isEmpty)
      let empty = try #require(throws: KeyStoreError.self) { try open(false) }
      #expect(empty.kind == .gone && empty.description.contains("it holds no key"), "\(empty)")
      _ = try KeyStore.open(folder).create(name: "b", scopes: [.read], lifetimeSeconds: nil)
      #expect(try open(false).ring.entries.count == 1)
    }
  }

  @Test("while the log can't append, the mark that keys exist is retried until it is written, and reported once")
  func requiredLater() async throws {
    try await withTemporaryFolder { folder in
      try await withStore { store in
        let tries = Atomic<Int>(0)
        let log = PaymentLog(store) { append async throws(LogStoreError) in
          if tries.add(1, ordering: .relaxed).newValue <= 20 { throw .diskFull(operation: "write", path: "test") }
          return try await store.append(append)
        }
        let collector = LineCollector()
        _ = try KeyStore.open(folder).create(name: "a", scopes: [.read], lifetimeSeconds: nil)
        let watch = try KeyWatch(folder, log: log, health: Health(stores: []), logger: collector.logger)
        let task = Task { await watch.run(every: .milliseconds(1)) }
        defer { task.cancel() }
        try await eventually("it is on the log") { try store.reader.cursor(KeyWatch.checkpointName) == 0 }
        #expect(collector.text.split(separator: "\n").count { $0.contains("can't record on the log") } == 1)
      }
    }
  }

  @Test("a file that another program has locked is no reason to move it away, and is read as soon as it is free")
  func locked() async throws {
    try await withFolderAndLog { folder, log in
      let key = try KeyStore.open(folder).create(name: "a", scopes: [.read], lifetimeSeconds: nil)
      let health = Health(stores: [])
      let watch = try KeyWatch(folder, log: log, health: health, logger: silent)
      let pauses = Mutex<[Duration]>([])
      let task = Task {
        await watch.run(every: .milliseconds(5)) { pause in
          pauses.withLock { $0.append(pause) }
          try await Task.sleep(for: pause)
        }
      }
      defer { task.cancel() }
      var configuration = Configuration()
      configuration.allowsUnsafeTransactions = true
      let other = try DatabaseQueue(path: KeyStore.path(in: folder), configuration: configuration)
      try await other.writeWithoutTransaction { try $0.execute(sql: "BEGIN EXCLUSIVE") }
      try await eventually("it is reported") {
        health.problems.contains { $0.contains("another program has it locked") }
      }
      #expect(!health.problems.contains { $0.contains("move it") || $0.contains("restore") }, "\(health.problems)")
      #expect(try watch.ring.find(key.text, atSeconds: 1_900_000_000).name == "a")
      try await other.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") }
      try watch.reloadIfChanged()
      try await eventually("it is over") { health.problems.isEmpty }
      #expect(pauses.withLock { $0.allSatisfy { $0 == .milliseconds(5) } }, "with the next look, not after a pause")
    }
  }

  @Test("the advice depends on the cause")
  func advice() throws {
    for (code, kind) in [
      (ResultCode.SQLITE_BUSY, KeyStoreError.Kind.locked), (.SQLITE_IOERR, .inaccessible),
      (.SQLITE_FULL, .inaccessible),
      (.SQLITE_CORRUPT, .damaged), (.SQLITE_NOTADB, .damaged),
    ] {
      let error = KeyStoreError(path: "keys.sqlite", DatabaseError(resultCode: code))
      #expect(error.kind == kind)
      #expect(error.description.contains("move it away") == (kind == .damaged), "\(error)")
    }
  }
}

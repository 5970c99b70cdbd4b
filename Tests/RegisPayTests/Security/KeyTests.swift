import Foundation
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

  @Test("a key with any character changed, missing or added is told to be none")
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
      #expect(!revoked.isEmpty, "a server that asked for keys goes on to ask")
    }
  }

  @Test("a change by another process is seen, a use is written down, and a removed file lets nobody in")
  func watched() async throws {
    try await withTemporaryFolder { folder in
      let watch = try KeyWatch(folder, health: Health(stores: []), logger: silent)
      #expect(watch.ring.isEmpty)
      let other = try KeyStore.open(folder)
      let key = try other.create(name: "a", scopes: [.read], lifetimeSeconds: nil)
      try watch.look()
      #expect(try watch.ring.find(key.text, atSeconds: 1_900_000_000).name == "a")
      try watch.noteUse()
      #expect(try other.all().first?.lastUsedSeconds == 1_900_000_000)
      try FileManager.default.removeItem(atPath: other.path)
      #expect(throws: KeyStoreError.self) { try watch.look() }
      #expect(!watch.ring.isEmpty)
      _ = try KeyStore.open(folder)
      try watch.look()
      #expect(!watch.ring.isEmpty, "an empty file in its place neither")
    }
  }
}

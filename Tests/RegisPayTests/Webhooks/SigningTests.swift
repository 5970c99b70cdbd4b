import Foundation
import Testing

@testable import RegisPay

@Suite("A webhook's signature")
struct SigningTests {
  private let secret = WebhookSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

  @Test("is the one that the specification's libraries are tested with")
  func published() throws {
    let signature = WebhookSignature(
      id: "msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp: 1_614_265_330, body: Array(#"{"test": 2432232314}"#.utf8),
      secrets: [try #require(secret)])
    #expect(signature.field == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
  }

  @Test("covers id, time and body")
  func covers() throws {
    let secrets = [try #require(secret)]
    let fields = Set([
      WebhookSignature(id: "a", timestamp: 1, body: [1], secrets: secrets).field,
      WebhookSignature(id: "b", timestamp: 1, body: [1], secrets: secrets).field,
      WebhookSignature(id: "a", timestamp: 2, body: [1], secrets: secrets).field,
      WebhookSignature(id: "a", timestamp: 1, body: [2], secrets: secrets).field,
      WebhookSignature(id: "a", timestamp: 1, body: [1], secrets: [.random()]).field,
    ])
    #expect(fields.count == 5)
  }

  @Test("has an entry for each secret, the new one's first, until the old one ends")
  func rotation() throws {
    let old = try #require(secret)
    let endpoint = WebhookEndpoint(
      id: "we", url: try WebhookURL("https://example.org"), description: "", events: nil, secret: .random(),
      previousSecret: .init(secret: old, untilMicroseconds: 100), disabled: nil, createdMicroseconds: 0,
      updatedMicroseconds: 0)
    #expect(endpoint.secrets(at: 99) == [endpoint.secret, old])
    #expect(endpoint.secrets(at: 100) == [endpoint.secret])
    let entries = WebhookSignature(id: "a", timestamp: 1, body: [], secrets: endpoint.secrets(at: 99)).field
      .split(separator: " ")
    try #require(entries.count == 2)
    #expect(String(entries[1]) == WebhookSignature(id: "a", timestamp: 1, body: [], secrets: [old]).field)
  }

  @Test("a new secret has the form and the length that the specification asks for, and none comes twice")
  func random() throws {
    var seen: Set<String> = []
    for _ in 0..<100 {
      let text = WebhookSecret.random().revealed
      #expect(text.hasPrefix("whsec_"))
      let data = try #require(Data(base64Encoded: String(text.dropFirst(6))))
      #expect((24...64).contains(data.count))
      #expect(WebhookSecret(text)?.revealed == text)
      #expect(seen.insert(text).inserted)
    }
  }

  @Test(
    "a secret that is too short, too long or no base64 is none",
    arguments: [
      "", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa",
      "whsec_?fKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
      "whsec_" + String(repeating: "A", count: 88),
    ])
  func malformed(_ text: String) { #expect(WebhookSecret(text) == nil) }

  @Test("a secret does not show itself, however it is printed")
  func hidden() throws {
    let secret = try #require(secret)
    let endpoint = WebhookEndpoint(
      id: "we", url: try WebhookURL("https://example.org"), description: "", events: nil, secret: secret,
      previousSecret: .init(secret: secret, untilMicroseconds: 1), disabled: nil, createdMicroseconds: 0,
      updatedMicroseconds: 0)
    var dumped = ""
    dump(endpoint, to: &dumped)
    for text in ["\(secret)", String(reflecting: secret), "\(endpoint)", String(reflecting: endpoint), dumped] {
      #expect(!text.contains("MfKQ9r8G"), "\(text)")
      #expect(!text.contains("\(secret.bytes[0]), \(secret.bytes[1])"), "\(text)")
      #expect(!text.contains("- \(secret.bytes[0])\n"), "\(text)")
    }
  }
}

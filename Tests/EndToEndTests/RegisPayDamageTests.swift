import AsyncHTTPClient
import Foundation
import NIOCore
import Testing

/// A server over a payments log whose first, finished segment is damaged.
@Suite("RegisPay, over a damaged log", .serialized)
struct RegisPayDamageTests {
  enum Kind: String, CaseIterable, Sendable {
    case firstFrame, middleFrame, payload, segmentHeader, cut, missing
  }

  private struct Case: Sendable, CustomStringConvertible {
    var kind: Kind
    var hasList: Bool
    var description: String { "\(kind.rawValue), \(hasList ? "with its list" : "without a list")" }
  }

  /// Completed payments in several segments, and where their events are.
  struct Template: Sendable {
    var folder: String
    /// Offsets of each payment's events.
    var offsets: [String: [UInt64]]
    var bases: [UInt64]
    /// Frames of the first segment.
    var frames: [Int]

    /// Of requests under a key whose records are in the logs' first segments.
    static let body = #"{"amount":10.00,"currency":"GBP"}"#
    static let keyHeaders = [("Content-Type", "application/json"), ("Idempotency-Key", "known")]

    var segment: String { "/data/payments/00000000000000000000.log" }
    /// Payments with an event in the first segment.
    var first: Set<String> { Set(offsets.filter { $0.value.contains { $0 < bases[1] } }.keys) }
  }

  static let template = Task { try await makeTemplate() }
  static let small = ["--segment-bytes", "65536"]

  private static func makeTemplate() async throws -> Template {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("regispay-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    let server = try await RunningServer.start(directory: folder, arguments: small)
    let keyed = try await server.post("/api/payment/create", Template.body, headers: Template.keyHeaders)
    var ids = [try #require(try keyed.object()["paymentId"] as? String)]
    #expect(
      try await server.post("/psp/api/payments/create", Template.body, headers: Template.keyHeaders).status == 202)
    func bases() throws -> [UInt64] {
      try FileManager.default.contentsOfDirectory(atPath: folder + "/data/payments").filter { $0.hasSuffix(".log") }
        .compactMap { UInt64($0.dropLast(4)) }.sorted()
    }
    while try bases().count < 3 {
      for _ in 0..<20 { ids.append(try await server.createPayment("10.00")) }
      for id in ids.suffix(20) { try await server.wait(for: id, status: "Completed", within: .seconds(30)) }
    }
    try await eventually("all are listed", within: .seconds(30)) {
      let list = try await server.get("/api/v1/payments?limit=1").object()
      return list["asOf"] as? UInt64 == list["logEnd"] as? UInt64
    }
    var offsets: [String: [UInt64]] = [:]
    for id in ids {
      let events = try await server.get("/api/v1/payments/\(id)/events").object()["events"] as? [[String: Any]] ?? []
      offsets[id] = events.compactMap { $0["offset"] as? UInt64 }
    }
    #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: folder + "/data/payments/00000000000000000000.log")))
    return Template(folder: folder, offsets: offsets, bases: try bases(), frames: frames(bytes))
  }

  /// Where frames begin, by their lengths.
  private static func frames(_ bytes: [UInt8]) -> [Int] {
    var found: [Int] = []
    var position = 4096
    while position + 48 <= bytes.count {
      let length = (0..<4).reduce(0) { $0 | Int(bytes[position + 4 + $1]) << (8 * $1) }
      guard length >= 48 else { break }
      found.append(position)
      position += length
    }
    return found
  }

  /// Damages the first segment of a copy. Returns the payments that are incomplete by it.
  private func damage(_ kind: Kind, _ template: Template, in folder: String) throws -> Set<String> {
    let path = folder + template.segment
    var bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
    let middle = template.frames[template.frames.count / 2]
    var concerned: Set<String> = []
    switch kind {
    case .firstFrame: bytes[template.frames[0] + 20] ^= 1
    case .middleFrame: bytes[middle + 20] ^= 1
    case .segmentHeader: bytes[200] ^= 1
    case .payload:
      let (position, id) = try payload(template, in: folder)
      bytes[position] ^= 1
      concerned = [id]
    case .cut:
      bytes.removeSubrange(template.frames[3]...)
      concerned = template.first
    case .missing: concerned = template.first
    }
    if kind == .missing {
      try FileManager.default.removeItem(atPath: path)
    } else {
      try Data(bytes).write(to: URL(fileURLWithPath: path))
    }
    return concerned
  }

  /// A byte in the data of a payment's first event, in the middle of the first segment.
  func payload(_ template: Template, in folder: String) throws -> (position: Int, id: String) {
    let bytes = try Data(contentsOf: URL(fileURLWithPath: folder + template.segment))
    let text = Data("\"paymentId\":\"".utf8)
    let found = try #require(bytes.range(of: text, in: template.frames[template.frames.count / 2]..<bytes.count))
    let id = String(decoding: bytes[found.upperBound..<found.upperBound + 36], as: UTF8.self)
    return (found.upperBound + 40, id)
  }

  func withCopy(_ template: Template, _ work: (String) async throws -> Void) async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.copyItem(atPath: template.folder + "/data", toPath: folder + "/data")
      try await work(folder)
    }
  }

  func health(_ server: RunningServer) async throws -> String {
    let response = try await server.get("/health")
    #expect(response.status == 200)
    return String(decoding: response.body, as: UTF8.self)
  }

  /// All payments of the list, by id.
  private func list(_ server: RunningServer) async throws -> [String: [String: Any]] {
    var found: [String: [String: Any]] = [:]
    var after = ""
    while true {
      let page = try await server.get("/api/v1/payments?limit=200" + after).object()
      for payment in page["payments"] as? [[String: Any]] ?? [] {
        if let id = payment["paymentId"] as? String { found[id] = payment }
      }
      guard let next = page["next"] as? String else { return found }
      after = "&after=\(next)"
    }
  }

  private func problemType(_ response: RunningServer.Response) throws -> String? {
    try response.object()["type"] as? String
  }

  /// What every server over this log must do, whatever is damaged in it.
  private func check(_ server: RunningServer, _ template: Template, concerned: Set<String>, partly: Bool) async throws {
    var incomplete: Set<String> = []
    for id in template.offsets.keys {
      let response = try await server.get("/api/v1/payments/\(id)")
      if response.status == 200 {
        #expect(try response.object()["status"] as? String == "Completed")
      } else {
        #expect(try problemType(response) == "/problems/payment-incomplete")
        incomplete.insert(id)
      }
    }
    #expect(partly ? !incomplete.isEmpty && incomplete.isSubset(of: concerned) : incomplete == concerned)
    for id in incomplete.prefix(3) {
      for command in ["cancel", "refunds", "retry"] {
        let response = try await server.post("/api/v1/payments/\(id)/\(command)", "")
        #expect(try problemType(response) == "/problems/payment-incomplete", "\(command)")
      }
    }
    let new = try await server.createPayment("1.00")
    try await server.wait(for: new, status: "Completed", within: .seconds(30))
    try await eventually("the list has all that can be read", within: .seconds(30)) {
      let page = try await server.get("/api/v1/payments?limit=1").object()
      return page["complete"] as? Bool == true && page["asOf"] as? UInt64 == page["logEnd"] as? UInt64
    }
    let listed = try await list(server)
    for id in template.offsets.keys where !incomplete.contains(id) {
      #expect(listed[id]?["status"] as? String == "Completed")
      #expect(listed[id]?["incomplete"] == nil)
    }
    for id in incomplete { #expect(listed[id] == nil || listed[id]?["incomplete"] as? Bool == true) }
    #expect(listed[new] != nil)
  }

  @Test(
    "the server starts over any damage to a finished segment, serves all else, and refuses what is incomplete",
    arguments: Kind.allCases, [true, false])
  func starts(_ kind: Kind, hasList: Bool) async throws {
    let template = try await Self.template.value
    try await withCopy(template) { folder in
      let concerned = try damage(kind, template, in: folder)
      if !hasList { try FileManager.default.removeItem(atPath: folder + "/data/projection") }
      for round in 1...2 {
        let server = try await RunningServer.start(directory: folder, arguments: Self.small)
        try await check(server, template, concerned: concerned, partly: kind == .cut)
        // Where no event is hit only reading in order, or the scrub, can find it.
        let isMet = !concerned.isEmpty || kind == .segmentHeader || (!hasList && round == 1)
        if isMet {
          try await eventually("it is reported, with file and byte", within: .seconds(30)) {
            try await health(server).contains("payments/00000000000000000000.log @")
          }
        }
        let events = try await read(server, from: 0)
        #expect(events.contains("-\(template.bases[2])\n"))
        if !concerned.isEmpty { #expect(events.contains("event: missing\n")) }
        #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      }
    }
  }

  @Test("on a repaired log a request whose record was lost is refused by name, and not carried out again")
  func repaired() async throws {
    let template = try await Self.template.value
    try await withCopy(template) { folder in
      _ = try damage(.missing, template, in: folder)
      let (old, new) = (folder + "/data/payments", folder + "/repaired")
      let store = StoreUnderTest(old, in: try TemporaryDirectory())
      #expect(try await store.run("repair", "--to", new).exitCode == 0)
      try FileManager.default.removeItem(atPath: old)
      try FileManager.default.moveItem(atPath: new, toPath: old)
      let server = try await RunningServer.start(directory: folder, arguments: Self.small)
      let response = try await server.post("/api/payment/create", Template.body, headers: Template.keyHeaders)
      #expect(response.status == 500)
      #expect(try problemType(response) == "/problems/idempotency-key-unreadable")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("data that goes bad while the server runs is refused where it is met, and reported once")
  func running() async throws {
    let template = try await Self.template.value
    try await withCopy(template) { folder in
      var server = try await RunningServer.start(directory: folder, arguments: Self.small)
      let concerned = try damageInPlace(template, in: folder)
      let id = try #require(concerned.first)
      try await check(server, template, concerned: concerned, partly: false)
      try await eventually("it is reported, with file and byte", within: .seconds(30)) {
        try await health(server).contains("payments/00000000000000000000.log @")
      }
      #expect(try await list(server)[id]?["incomplete"] as? Bool == true)
      #expect(server.process.errorText.components(separatedBy: "passed over damage").count == 2)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      server = try await RunningServer.start(directory: folder, arguments: Self.small)
      try await check(server, template, concerned: concerned, partly: false)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  /// As ``damage(_:_:in:)`` of a payload, in the file that is open. A second time it undoes that.
  @discardableResult
  func damageInPlace(_ template: Template, in folder: String) throws -> Set<String> {
    let (position, id) = try payload(template, in: folder)
    let handle = try FileHandle(forUpdating: URL(fileURLWithPath: folder + template.segment))
    try handle.seek(toOffset: UInt64(position))
    let byte = try #require(try handle.read(upToCount: 1)?.first)
    try handle.seek(toOffset: UInt64(position))
    try handle.write(contentsOf: [byte ^ 1])
    try handle.close()
    return [id]
  }

  /// What the event stream sends from an offset on, until it has come to the third segment.
  private func read(_ server: RunningServer, from offset: UInt64) async throws -> String {
    let template = try await Self.template.value
    let request = HTTPClientRequest(url: server.url + "/api/v1/events?from=\(offset)")
    let response = try await HTTPClient.shared.execute(request, timeout: .seconds(30))
    var text = ""
    for try await part in response.body {
      text += String(buffer: part)
      if text.contains("-\(template.bases[2])\n") { break }
    }
    return text
  }
}

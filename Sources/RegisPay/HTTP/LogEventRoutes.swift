import Foundation
import Hummingbird
import LogStore

/// `/api/v1/log/events`: events of the payments log by offset or by stream, and the bytes of one.
struct LogEventRoutes: Sendable {
  let follower: LogFollower

  private static let pageLimit = 200
  /// How long a page looks for events of a type.
  private static let pageTime = Duration.milliseconds(250)
  /// Events after which the time is looked at.
  private static let window: UInt64 = 4_096
  /// Bytes of an event's data that a response has.
  private static let dataLimit = 256 << 10
  /// More than any log has, and kept by all JSON readers.
  private static let largestOffset: UInt64 = 1 << 53 - 1
  /// In code points.
  private static let textLengths = 1...500

  func add(to router: Routes) {
    router.handle("/api/v1/log/events", [.get: { request, _ in try await page(request) }])
    router.handle("/api/v1/log/events/{offset}", [.get: { _, context in try await show(context) }])
  }

  /// What a request for a page asks for.
  private struct Query {
    var from: UInt64?
    var limit = 50
    var stream: String?
    var type: String?

    /// - Throws: ``Problem`` that names the mistake.
    init(_ parameters: Parameters) throws(Problem) {
      var seen: Set<Substring> = []
      for (name, value) in parameters {
        guard seen.insert(name).inserted else { throw Problem.badRequest("\(name) is given twice.") }
        switch name {
        case "from":
          guard let number = value.wholeNumber, number <= largestOffset else {
            throw Problem.badRequest("from must be an offset, or with stream a version.")
          }
          from = number
        case "limit":
          guard let number = value.wholeNumber, (1...UInt64(pageLimit)).contains(number) else {
            throw Problem.badRequest("limit must be 1 to \(pageLimit).")
          }
          limit = Int(number)
        case "stream", "type":
          guard textLengths.contains(value.unicodeScalars.count) else {
            throw Problem.badRequest("\(name) must have 1 to \(textLengths.upperBound) characters.")
          }
          if name == "stream" { stream = String(value) } else { type = String(value) }
        default: throw Problem.badRequest("This route has no parameter \(String(name).debugDescription).")
        }
      }
    }
  }

  private func page(_ request: Request) async throws -> Response {
    let query = try Query(request.uri.formParameters)
    let (events, next, missing) =
      if let stream = query.stream { try await self.events(of: stream, query) } else { try await self.events(query) }
    let end = follower.reader.endOffset
    let bytes = await RequestThreads.run(.short) {
      let json: JSONValue = [
        "events": .array(events.map { .object(EventJSON.members(of: $0)) }), "next": next.map { .integer($0) } ?? .null,
        "endOffset": .integer(end),
        "missing": .array(
          missing.map { ["offset": .integer($0.lowerBound), "events": .integer($0.upperBound - $0.lowerBound)] }),
      ]
      return json.bytes
    }
    return Response(bytes: bytes, contentType: "application/json; charset=utf-8")
  }

  /// A stream's events from a version on. Versions that are lost are left out.
  private func events(
    of stream: String, _ query: Query
  ) async throws -> ([Event], next: UInt64?, missing: [Range<UInt64>]) {
    let from = max(query.from ?? 1, 1)
    do {
      let found = try await RequestThreads.run(.long) { () throws(LogStoreError) in
        try follower.lookUp { reader throws(LogStoreError) in
          try reader.stream(stream, from: from, limit: query.limit + 1, skippingMissing: true, endsWithTask: false)
        }
      }
      let page = Array(found.prefix(query.limit))
      let next = found.count > page.count ? found[query.limit].version : nil
      return (query.type.map { type in page.filter { $0.type == type } } ?? page, next, [])
    } catch {
      guard error.isLocalDamage else { throw error }
      throw Problem(
        status: .internalServerError, name: "unreadable",
        detail: "A part of the stream is damaged or can't be read now; GET /health says where.")
    }
  }

  /// Events from an offset on. A page that takes too long ends with what was found.
  private func events(_ query: Query) async throws -> ([Event], next: UInt64?, missing: [Range<UInt64>]) {
    let type = query.type.map { Array($0.utf8) }
    let deadline = ContinuousClock.now + Self.pageTime
    var next = query.from ?? 0
    let end = follower.reader.endOffset
    var found: [Event] = []
    var missing: [Range<UInt64>] = []
    while next < end, found.count < query.limit, ContinuousClock.now < deadline {
      let (start, room) = (next, query.limit - found.count)
      let (more, passed, after) = try await RequestThreads.run(.long) { () throws(LogStoreError) in
        var taken: [Event] = []
        var passed: [Range<UInt64>] = []
        var last = start
        let after = try follower.forEachNow(
          from: start,
          // A range may begin before the page.
          passed: { passed.append($0.offsets.clamped(to: start..<end)) }
        ) { view in
          last = view.offset
          if type.map({ type in view.type.withUnsafeBytes { $0.elementsEqual(type) } }) ?? true {
            taken.append(view.copy())
          }
          return taken.count < room && view.offset - start < Self.window
        }
        // What lies behind the last event may be a gap.
        return (taken, passed, max(after, last + 1))
      }
      found += more
      missing += passed.filter { !$0.isEmpty }
      next = after
    }
    return (found, next < end ? next : nil, missing)
  }

  private func show(_ context: HTTPRequestContext) async throws -> Response {
    let text = context.parameters.get("offset") ?? ""
    guard let offset = text.wholeNumber, offset <= Self.largestOffset else {
      throw Problem.notFound("An event's offset is a whole number.")
    }
    let found = try await RequestThreads.run(.short) { () throws(LogStoreError) in
      var found: Event?
      if offset < follower.reader.endOffset {
        _ = try follower.forEachNow(from: offset) { view in
          if view.offset == offset { found = view.copy() }
          return false
        }
      }
      return found
    }
    guard let event = found else {
      throw Problem.notFound(
        "The log has no event with the offset \(offset), or it can't be read; GET /health says so.")
    }
    return await RequestThreads.run(.short) {
      let data = Data(event.payload.prefix(Self.dataLimit))
      return Response(
        json: .object(
          EventJSON.members(of: event) + [
            .init("id", .string("\(event.id)")), .init("bytes", .integer(UInt64(event.payload.count))),
            .init("base64", .string(data.base64EncodedString())),
          ]))
    }
  }
}

import Hummingbird
import LogStore

/// `GET /api/v1/actions`: what persons have commanded and changed, newest first, with the names of their keys.
///
/// They are found by reading the log backwards, since only an index could skip what is between them, and each payment would pay for it.
/// A page that takes too long ends with what was found, and the next one continues there.
struct ActionRoutes: Sendable {
  let follower: LogFollower

  private static let pageLimit = 200
  /// More than any log has, and kept by all JSON readers.
  private static let largestOffset: UInt64 = 1 << 53 - 1
  /// Events read at a time: some milliseconds.
  private static let window: UInt64 = 4_096
  private static let pageTime = Duration.milliseconds(250)
  /// The events that only a person's command leads to, or one that a person gave before.
  private static let types =
    ([PaymentEvent.TypeName.cancellationRequested, .retried, .refundRequested, .outcomeResolved].map(\.rawValue)
    + [OperatorAction.eventType]).map { Array($0.utf8) }

  func add(to router: Routes) {
    router.handle("/api/v1/actions", [.get: { request, _ in try await page(request) }])
  }

  private func page(_ request: Request) async throws -> Response {
    let (limit, before) = try Self.read(request.uri.formParameters)
    var end = min(before, follower.reader.endOffset)
    let deadline = ContinuousClock.now + Self.pageTime
    var found: [Event] = []
    while end > 0, found.count < limit {
      let start = end - min(end, Self.window)
      let offsets = start..<end
      let later = try await RequestThreads.run(.long) { () throws(LogStoreError) in try self.events(in: offsets) }
      found += later.reversed()
      end = start
      if ContinuousClock.now > deadline { break }
    }
    if found.count > limit {
      found.removeLast(found.count - limit)
      end = found[limit - 1].offset
    }
    let (events, next) = (found, end)
    let bytes = await RequestThreads.run(.short) {
      let json: JSONValue = [
        "events": .array(events.map { .object(EventJSON.members(of: $0)) }),
        "next": next > 0 ? .integer(next) : .null,
      ]
      return json.bytes
    }
    return Response(bytes: bytes, contentType: "application/json; charset=utf-8")
  }

  /// Persons' events at these offsets, in order. What can't be read is left out; `/health` reports it.
  private func events(in offsets: Range<UInt64>) throws(LogStoreError) -> [Event] {
    var found: [Event] = []
    _ = try follower.forEachNow(from: offsets.lowerBound) { view in
      guard view.offset < offsets.upperBound else { return false }
      let isAction = view.type.withUnsafeBytes { type in Self.types.contains { type.elementsEqual($0) } }
      if isAction { found.append(view.copy()) }
      return view.offset + 1 < offsets.upperBound
    }
    return found
  }

  /// - Throws: ``Problem`` that names the mistake.
  private static func read(_ parameters: Parameters) throws(Problem) -> (limit: Int, before: UInt64) {
    var (limit, before) = (50, UInt64.max)
    var seen: Set<Substring> = []
    for (name, value) in parameters {
      guard seen.insert(name).inserted else { throw Problem.badRequest("\(name) is given twice.") }
      switch name {
      case "limit":
        guard let number = value.wholeNumber, (1...UInt64(pageLimit)).contains(number) else {
          throw Problem.badRequest("limit must be 1 to \(pageLimit).")
        }
        limit = Int(number)
      case "before":
        guard let number = value.wholeNumber, number <= largestOffset else {
          throw Problem.badRequest("before must be the value of next on an earlier page.")
        }
        before = number
      default: throw Problem.badRequest("This route has no parameter \(String(name).debugDescription).")
      }
    }
    return (limit, before)
  }
}

import Hummingbird
import LogStore

/// `POST /api/v1/broker/replay`: publishes integration events again. `POST /api/v1/broker/dead-letters/{step}/release`: has dead letters go
/// to the queue of their step again.
struct BrokerRoutes: Sendable {
  /// Nil if no broker is named.
  let broker: BrokerPublisher?
  /// Nil if the server makes the calls of steps itself.
  let stepPublisher: BrokerPublisher?
  let actions: ActionLog

  /// The greatest whole number that JSON carries safely: the API's limit for offsets.
  private static let offsetLimit: Int64 = 9_007_199_254_740_991

  func add(to router: Routes) {
    router.handle(
      "/api/v1/broker/replay",
      [
        .post: { request, context in
          let offset = try Self.offset(try await body(of: request))
          guard let broker else {
            throw Problem.notFound(
              "No integration events are published: the server runs without --broker, or with --broker-event none.")
          }
          do throws(LogStoreError) {
            try await broker.replay(from: offset)
          } catch {
            throw Problem.unavailable("The checkpoint can't be set back: \(error)")
          }
          await actions.record(.brokerReplayed, nil, [.init("from", .integer(offset))], by: context.holder)
          return Response(json: ["from": .integer(offset)], status: .accepted)
        }
      ])
    router.handle(
      "/api/v1/broker/dead-letters/{step}/release", [.post: { _, context in try await release(context) }])
  }

  private func release(_ context: HTTPRequestContext) async throws -> Response {
    let name = context.parameters.get("step") ?? ""
    guard let step = PaymentStep(rawValue: name) else {
      throw Problem.notFound("There is no step \(name.debugDescription).")
    }
    guard let stepPublisher else {
      throw Problem.notFound("No step has a queue: the server runs without --steps-from broker.")
    }
    guard let count = stepPublisher.releaseDeadLetters(step) else {
      throw Problem.unavailable("The server has no connection to the broker.")
    }
    await actions.record(.deadLettersReleased, step.rawValue, [.init("messages", .integer(count))], by: context.holder)
    return Response(json: ["step": .string(step.rawValue), "messages": .integer(count)], status: .accepted)
  }

  private func body(of request: Request) async throws -> JSONValue {
    do {
      return try await request.readJSON(limit: CreateRequest.bodyLimit)
    } catch let error as JSONError {
      throw ValidationError(error).problem
    }
  }

  private static func offset(_ body: JSONValue) throws(Problem) -> UInt64 {
    guard case .object(let members) = body else { throw problem("body", "The body must be a JSON object") }
    for member in members where member.key != "from" {
      throw problem(member.key, "There is no such member; possible is from")
    }
    guard let offset = body["from"]?.wholeNumber, (0...offsetLimit).contains(offset) else {
      throw problem("from", "from is an offset, a whole number from 0 to \(offsetLimit)")
    }
    return UInt64(offset)
  }

  private static func problem(_ field: String, _ message: String) -> Problem {
    ValidationError(errors: [FieldError(field: field, messages: [message])]).problem
  }
}

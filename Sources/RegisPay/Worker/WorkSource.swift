/// Asks the server for the work of a step, and reports to it. Safe to use from any task.
struct WorkSource: Sendable {
  /// Why the server gives no answer that can be used, for a person.
  struct Failure: Error, Sendable, Hashable {
    var reason: String
    /// It has no such call, or not any more.
    var isUnknownCall = false
  }

  private let client: ServerClient

  init(_ options: WorkerOptions) throws(EndpointError) {
    client = try ServerClient(
      url: options.serverURL, key: options.serverKey, tls: options.serverTLS, connectionLimit: 512)
  }

  func close() { client.close() }

  /// - Parameter payment: that a message names; nil for work whose wait on the log is over.
  func ask(_ step: PaymentStep, _ payment: PaymentID?) async throws(Failure) -> WorkAnswer {
    try await post(step.rawValue, payment.map { [.init("aggregateId", .string($0.stream))] } ?? [])
  }

  func report(_ outcome: CallOutcome, of order: WorkOrder) async throws(Failure) -> WorkAnswer {
    try await post(
      "\(order.work.step.rawValue)/outcome", [.init("token", .string(order.token))] + WorkWire.members(outcome))
  }

  private func post(_ path: String, _ members: [JSONValue.Member]) async throws(Failure) -> WorkAnswer {
    let json: JSONValue
    do throws(ServerClientError) {
      json = try await client.post("/api/v1/work/\(path)", idempotencyKey: nil, body: .object(members))
    } catch {
      if case .refused(404, _) = error, path.hasSuffix("/outcome") {
        throw Failure(reason: "\(error)", isUnknownCall: true)
      }
      throw Failure(reason: "\(error)")
    }
    guard let answer = WorkWire.answer(json) else {
      throw Failure(reason: "the server answers what this version does not know")
    }
    return answer
  }
}

import Hummingbird
import LogStore

/// Webhook endpoints over HTTP. A secret is shown when it is created, and never again.
struct WebhookRoutes: Sendable {
  let webhooks: Webhooks
  let actions: ActionLog

  private static let pageLimit = 200

  func add(to router: Routes) {
    router.handle(
      "/api/v1/webhooks",
      [
        .get: { _, _ in try await list() },
        .post: { request, context in try await refusing { try await create(request, context) } },
      ])
    router.handle(
      "/api/v1/webhooks/{id}",
      [
        .get: { _, context in show(try await find(context).status) },
        .patch: { request, context in
          let worker = try find(context)
          let change = try await WebhookRequest.change(request, allowingPrivate: webhooks.options.allowsPrivate)
          return try await refusing {
            let status = try await worker.change(change)
            let details = Self.details(of: change)
            if !details.isEmpty { await actions.record(.webhookChanged, worker.id, details, by: context.holder) }
            return show(status)
          }
        },
        .delete: { _, context in
          let worker = try find(context)
          return try await refusing {
            let origin = await worker.status.endpoint.url.origin
            try await webhooks.remove(worker)
            await actions.record(.webhookDeleted, worker.id, [.init("url", .string(origin))], by: context.holder)
            return Response(status: .noContent)
          }
        },
      ])
    router.handle(
      "/api/v1/webhooks/{id}/rotate",
      [
        .post: { _, context in
          let worker = try find(context)
          return try await refusing {
            let (status, secret) = try await worker.rotate()
            await actions.record(.webhookSecretRotated, worker.id, by: context.holder)
            return show(status, secret: secret)
          }
        }
      ])
    router.handle(
      "/api/v1/webhooks/{id}/test",
      [
        .post: { _, context in
          let worker = try find(context)
          return try await refusing {
            let delivery = try await worker.test()
            await actions.record(.webhookTested, worker.id, by: context.holder)
            return Response(json: WebhookJSON.delivery(delivery))
          }
        }
      ])
    router.handle(
      "/api/v1/webhooks/{id}/deliveries",
      [.get: { request, context in try await deliveries(request, of: try find(context)) }])
    router.handle(
      "/api/v1/webhooks/{id}/deliveries/{number}",
      [.get: { _, context in try await refusing { try await showDelivery(context) } }])
    router.handle(
      "/api/v1/payments/{id}/deliveries",
      [.get: { _, context in try await refusing { try await deliveries(about: context) } }])
    router.handle(
      "/api/v1/webhooks/{id}/replay",
      [
        .post: { request, context in
          let worker = try find(context)
          let replay = try await WebhookRequest.replay(request)
          return try await refusing {
            let status = try await start(replay, of: worker)
            await actions.record(.webhookReplayed, worker.id, [replay.detail], by: context.holder)
            return show(status, httpStatus: .accepted)
          }
        }
      ])
  }

  private func deliveries(about context: HTTPRequestContext) async throws -> Response {
    guard let id = PaymentID(context.parameters.get("id") ?? "") else {
      throw Problem.notFound("A payment's id is a UUID.")
    }
    let version = try await RequestThreads.run(.short) { [follower = webhooks.follower] () throws(LogStoreError) in
      try follower.lookUp { reader throws(LogStoreError) in try reader.streamVersion(id.stream) }
    }
    guard version > 0 else { throw Problem.notFound("There is no payment \(id).") }
    let found = try await webhooks.deliveries(about: id, limit: Self.pageLimit)
    var urls: [String: String] = [:]
    for worker in webhooks.all { urls[worker.id] = await worker.status.endpoint.url.text }
    return Response(json: [
      "deliveries": .array(
        found.map { endpoint, delivery in
          var members: [JSONValue.Member] = [.init("webhook", .string(endpoint))]
          // An endpoint's deliveries go with it.
          if let url = urls[endpoint] { members.append(.init("url", .string(url))) }
          return .object(members + WebhookJSON.members(of: delivery))
        })
    ])
  }

  private func showDelivery(_ context: HTTPRequestContext) async throws -> Response {
    let worker = try find(context)
    guard let number = context.parameters.get("number")?.wholeNumber.flatMap(Int64.init(exactly:)), number > 0,
      let delivery = try await webhooks.delivery(number, of: worker)
    else { throw Problem.notFound("This webhook has no such delivery; the oldest are removed in time.") }
    let message: WebhookMessage?
    do {
      message = try await webhooks.message(of: delivery)
    } catch {
      throw Problem.unavailable("The payment can't be read now: \(error)")
    }
    let url = await worker.status.endpoint.url.text
    return Response(json: WebhookJSON.details(delivery, message, url: url))
  }

  private func list() async throws -> Response {
    var endpoints: [JSONValue] = []
    // Bounded by the number of endpoints.
    for worker in webhooks.all { endpoints.append(.object(WebhookJSON.members(of: await worker.status))) }
    return Response(json: ["webhooks": .array(endpoints)])
  }

  private func create(_ request: Request, _ context: HTTPRequestContext) async throws -> Response {
    let new = try await WebhookRequest.endpoint(request, allowingPrivate: webhooks.options.allowsPrivate)
    let worker = try await webhooks.add(url: new.url, description: new.description, events: new.events)
    let status = await worker.status
    await actions.record(
      .webhookCreated, worker.id,
      [.init("url", .string(new.url.origin))] + (new.events.map { [.init("events", Self.names($0))] } ?? []),
      by: context.holder)
    var response = show(status, secret: status.endpoint.secret, httpStatus: .created)
    response.headers[.location] = "/api/v1/webhooks/\(worker.id)"
    return response
  }

  private static func names(_ events: Set<PaymentEvent.TypeName>) -> JSONValue {
    .array(events.map(\.rawValue).sorted().map(JSONValue.string))
  }

  /// What a change sets.
  private static func details(of change: EndpointWorker.Change) -> [JSONValue.Member] {
    var details: [JSONValue.Member] = []
    if let url = change.url { details.append(.init("url", .string(url.origin))) }
    if let description = change.description { details.append(.init("description", .string(description))) }
    if let events = change.events { details.append(.init("events", events.map(names) ?? .null)) }
    if let isEnabled = change.isEnabled { details.append(.init("enabled", .bool(isEnabled))) }
    return details
  }

  private func show(
    _ status: EndpointWorker.Status, secret: WebhookSecret? = nil, httpStatus: HTTPResponse.Status = .ok
  ) -> Response {
    var members = WebhookJSON.members(of: status)
    if let secret { members.insert(.init("secret", .string(secret.revealed)), at: 1) }
    return Response(json: .object(members), status: httpStatus)
  }

  private func find(_ context: HTTPRequestContext) throws(Problem) -> EndpointWorker {
    guard let worker = webhooks.worker(context.parameters.get("id") ?? "") else {
      throw Problem.notFound("There is no such webhook.")
    }
    return worker
  }

  private func start(
    _ replay: WebhookRequest.Replay, of worker: EndpointWorker
  ) async throws -> EndpointWorker.Status {
    switch replay {
    case .event(let payment, let version):
      let found = try await RequestThreads.run(.short) { [follower = webhooks.follower] () throws(LogStoreError) in
        try follower.lookUp { reader throws(LogStoreError) in
          try reader.stream(payment.stream, from: version, limit: 1).first
        }
      }
      guard let event = found, event.version == version else {
        throw Problem(refusal: "no-such-event", "there is no such event")
      }
      return try await worker.replay(event.offset)
    case .offset(let offset): return try await worker.replay(from: offset)
    case .time(let microseconds):
      let offset = try await RequestThreads.run(.short) { [follower = webhooks.follower] () throws(LogStoreError) in
        try follower.lookUp { reader throws(LogStoreError) in try reader.firstOffset(at: microseconds) }
      }
      return try await worker.replay(from: offset)
    }
  }

  private func deliveries(_ request: Request, of worker: EndpointWorker) async throws -> Response {
    var limit = 50
    var before = Int64.max
    for (name, value) in request.uri.formParameters {
      switch name {
      case "limit":
        guard let number = value.wholeNumber, (1...UInt64(Self.pageLimit)).contains(number) else {
          throw Problem.badRequest("limit must be 1 to \(Self.pageLimit).")
        }
        limit = Int(number)
      case "after":
        guard let number = value.wholeNumber.flatMap(Int64.init(exactly:)), number > 0 else {
          throw Problem.badRequest("after must be the value of next on an earlier page.")
        }
        before = number
      default: throw Problem.badRequest("This route has no parameter \(String(name).debugDescription).")
      }
    }
    let found = try await webhooks.deliveries(of: worker, before: before, limit: limit + 1)
    let page = found.prefix(limit)
    return Response(json: [
      "deliveries": .array(page.map(WebhookJSON.delivery)),
      "next": found.count > limit ? page.last.map { .string(String($0.number)) } ?? .null : .null,
    ])
  }

  /// Turns the errors of `work` into problems.
  private func refusing(_ work: () async throws -> Response) async throws -> Response {
    do {
      return try await work()
    } catch let refusal as EndpointWorker.Refusal {
      switch refusal {
      case .removed: throw Problem.notFound("There is no such webhook.")
      case .isTesting:
        throw Problem(status: .conflict, name: "test-in-progress", detail: "A test of this webhook is in progress.")
      case .tooManyWaiting(let limit):
        throw Problem(
          status: .conflict, name: "too-many-waiting",
          detail: "Nothing was changed: \(limit) events of this webhook already wait for a retry.")
      }
    } catch Webhooks.Refusal.tooMany(let limit) {
      throw Problem(
        status: .conflict, name: "too-many-webhooks",
        detail: "Nothing was changed: at most \(limit) webhooks can be registered.")
    } catch is WebhookStoreError {
      throw Problem.unavailable("Nothing was changed: the webhooks' file can't be written now.")
    }
  }
}

extension LogReader {
  /// The offset of the first event at or after a time; the end of the log if all are earlier. Reads a number of events that is the
  /// logarithm of the log's length: times on a log never go back.
  func firstOffset(at microseconds: UInt64) throws(LogStoreError) -> UInt64 {
    var (low, high) = (UInt64(0), endOffset)
    while low < high {
      let middle = low + (high - low) / 2
      guard let event = try events(from: middle, limit: 1).first, event.timestampMicroseconds < microseconds else {
        high = middle
        continue
      }
      // If the middle lies in a gap, the event has a later offset.
      low = event.offset + 1
    }
    return low
  }
}

import LogStore
import Logging

/// One try to deliver one event, from the log to the receiver's response.
struct WebhookAttempt: Sendable {
  /// The event, or its offset if it must be read again.
  enum Source: Sendable {
    case event(Event)
    case offset(UInt64)
  }

  struct Ended: Sendable {
    /// Nil when there was nothing to send.
    var message: WebhookMessage?
    /// Nil for a test, and if the event can't be read.
    var payment: PaymentID?
    /// The endpoint's URL when the try began.
    var url: WebhookURL
    var startMicroseconds: UInt64
    var durationMicroseconds: UInt64
    var result: Result

    /// How the response's body begins.
    var text: String? {
      guard case .completed(.responded(_, _, let text)) = result else { return nil }
      return text
    }
  }

  enum Result: Sendable, Hashable {
    case completed(WebhookResult)
    /// No try will ever succeed.
    case undeliverable(reason: String)
    /// The log can't be read at the moment.
    case logUnreadable(reason: String)
    /// Calls to the endpoint were in flight at two crashes of the process: it is not called again automatically.
    case suspended
    /// The server's stop cancelled the try, which counts as not begun.
    case abandoned
  }

  let log: PaymentLog
  let sender: WebhookSender
  let clock: WebhookClock
  let start: CarefulStart
  let tracing: Tracing

  /// - Parameters:
  ///   - isSuspect: the try may be what crashed earlier processes.
  ///   - ticket: see ``CarefulStart/ticket``.
  func run(_ source: Source, for endpoint: WebhookEndpoint, isSuspect: Bool, ticket: Int?) async -> Ended {
    await start.perform(
      Self.carefulName(endpoint.id), isSuspect: isSuspect, ticket: ticket,
      suspended: Ended(
        message: nil, url: endpoint.url, startMicroseconds: clock.now(), durationMicroseconds: 0, result: .suspended)
    ) { await run(source, for: endpoint) }
  }

  /// The name of messages to an endpoint in ``CarefulStart``.
  static func carefulName(_ id: String) -> String { "webhook \(id)" }

  private func run(_ source: Source, for endpoint: WebhookEndpoint) async -> Ended {
    let message: WebhookMessage
    do throws(Stop) {
      message = try self.message(source)
    } catch {
      return Ended(
        message: nil, payment: payment(of: source), url: endpoint.url, startMicroseconds: clock.now(),
        durationMicroseconds: 0, result: error.result)
    }
    return await send(message, to: endpoint)
  }

  func send(_ message: WebhookMessage, to endpoint: WebhookEndpoint) async -> Ended {
    let start = clock.now()
    let time = ContinuousClock.now
    let signature = WebhookSignature(
      id: message.id, timestamp: start / 1_000_000, body: message.body, secrets: endpoint.secrets(at: start))
    let result = await sender.send(message.body, to: endpoint.url, signature: signature, trace: message.trace)
    var ended = Result.completed(result)
    if Task.isCancelled, case .failed = result { ended = .abandoned }
    return Ended(
      message: message, payment: WebhookMessage.paymentAndVersion(of: message.id)?.payment, url: endpoint.url,
      startMicroseconds: start,
      durationMicroseconds: time.duration(to: .now).microseconds, result: ended)
  }

  private struct Stop: Error { let result: Result }

  private func message(_ source: Source) throws(Stop) -> WebhookMessage {
    let message: WebhookMessage?
    do throws(PaymentLogError) {
      message = try event(source).flatMap { event throws(PaymentLogError) in
        try WebhookMessage(event, log: log, tracing: tracing)
      }
    } catch {
      if case .store = error { throw Stop(result: .logUnreadable(reason: "\(error)")) }
      throw Stop(result: .undeliverable(reason: "\(error)"))
    }
    guard let message else {
      throw Stop(
        result: .undeliverable(reason: "the event is no longer on the log, can't be read, or is not a payment's event"))
    }
    return message
  }

  private func payment(of source: Source) -> PaymentID? {
    guard case .event(let event) = source else { return nil }
    return PaymentID(stream: event.stream)
  }

  private func event(_ source: Source) throws(PaymentLogError) -> Event? {
    switch source {
    case .event(let event): return event
    case .offset(let offset):
      do throws(LogStoreError) {
        return try log.follower.event(at: offset)
      } catch {
        throw .store(error)
      }
    }
  }
}

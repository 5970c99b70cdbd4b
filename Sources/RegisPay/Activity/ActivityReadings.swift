/// How the server stands now. A part that could not be read in time is nil.
struct ActivityReadings: Sendable {
  struct Breaker: Sendable {
    var service: String
    /// Nil for the service's own.
    var step: String?
    /// `open` or `trying`.
    var state: String
    var reason: String?
  }

  struct List: Sendable {
    var parked = 0
    var outcomeUnknown = 0
    var delayed = 0
  }

  struct Webhooks: Sendable {
    var failing = 0
    var disabled = 0
  }

  struct Health: Sendable {
    var problems = 0
    var warnings = 0
  }

  struct Disk: Sendable {
    var availableBytes: UInt64 = 0
    var sizeBytes: UInt64 = 0
    var fullInSeconds: Double?
  }

  var logEnd: UInt64 = 0
  var listEnd: UInt64 = 0
  var openBreakers: [Breaker] = []
  var areCallsHeld = false
  var lag: ActivityPoint.Lag?
  var list: List?
  var webhooks: Webhooks?
  var health: Health?
  var disk: Disk?

  /// These, with the earlier parts where there are no new ones.
  func completed(with earlier: ActivityReadings) -> ActivityReadings {
    var whole = self
    whole.lag = lag ?? earlier.lag
    whole.list = list ?? earlier.list
    whole.webhooks = webhooks ?? earlier.webhooks
    whole.health = health ?? earlier.health
    whole.disk = disk ?? earlier.disk
    return whole
  }
}

/// One look at the server: what it did in the last seconds, and how it stands.
struct ActivityTick: Sendable {
  var microseconds: UInt64
  var flow: ActivityPoint.Flow
  var sync: TimeQuantiles?
  var readings: ActivityReadings

  var json: JSONValue {
    let list = readings.list ?? .init()
    let (health, webhooks, disk) = (readings.health ?? .init(), readings.webhooks ?? .init(), readings.disk ?? .init())
    let before: [JSONValue.Member] = [
      .init("at", .string(timestamp(microseconds: microseconds))), .init("logEnd", .integer(readings.logEnd)),
      .init("listEnd", .integer(readings.listEnd)),
    ]
    let after: [JSONValue.Member] = [
      .init("lag", (readings.lag ?? .init(events: 0, seconds: 0)).json),
      .init("openBreakers", .array(readings.openBreakers.map(Self.json))),
      .init("callsHeld", .bool(readings.areCallsHeld)), .init("parked", .integer(list.parked)),
      .init("outcomeUnknown", .integer(list.outcomeUnknown)), .init("delayed", .integer(list.delayed)),
      .init("webhooksFailing", .integer(webhooks.failing)), .init("webhooksDisabled", .integer(webhooks.disabled)),
      .init("healthy", .bool(health.problems == 0)), .init("problems", .integer(health.problems)),
      .init("warnings", .integer(health.warnings)),
      .init(
        "disk",
        [
          "availableBytes": .integer(disk.availableBytes), "sizeBytes": .integer(disk.sizeBytes),
          "fullInSeconds": disk.fullInSeconds.map { .rounded($0.rounded()) } ?? .null,
        ]), .init("syncMilliseconds", .quantiles(sync)),
    ]
    return .object(before + flow.members + after)
  }

  private static func json(_ breaker: ActivityReadings.Breaker) -> JSONValue {
    [
      "service": .string(breaker.service), "step": breaker.step.map { .string($0) } ?? .null,
      "state": .string(breaker.state), "reason": breaker.reason.map { .string($0) } ?? .null,
    ]
  }
}

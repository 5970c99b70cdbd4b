/// How deliveries of all endpoints end. Safe to use from any task.
final class WebhookMetrics: Sendable {
  /// As ``WebhookDelivery/Outcome``, in the form of labels.
  private enum Label: String, CaseIterable {
    case delivered, retrying
    case givenUp = "given_up"
    case disabled, failed
  }

  private let deliveries = CounterTable<Label>()

  func count(_ outcome: WebhookDelivery.Outcome) {
    switch outcome {
    case .delivered: deliveries.add(.delivered)
    case .retrying: deliveries.add(.retrying)
    case .givenUp: deliveries.add(.givenUp)
    case .disabled: deliveries.add(.disabled)
    case .failed: deliveries.add(.failed)
    }
  }

  var families: [MetricFamily] {
    var family = MetricFamily(
      "regispay_webhook_deliveries", .counter, "Tries to deliver a webhook message, by their end.")
    for (outcome, count) in deliveries.counts { family.add([.init("outcome", outcome)], count) }
    return [family]
  }
}

extension EndpointWorker {
  /// How an endpoint is, for metrics.
  struct Condition: Sendable {
    enum State: String, CaseIterable {
      case working, failing, disabled
      case disabledByServer = "disabled_by_server"
    }

    var state: State
    /// Messages that wait for a retry.
    var waiting: Int
    /// Messages that are being sent, or whose end is not on disk yet.
    var inFlight: Int
    /// The lowest offset that is neither done nor stored to be retried.
    var nextOffset: UInt64
  }

  var condition: Condition {
    Condition(
      state: endpoint.disabled.map { $0.isRequested ? .disabled : .disabledByServer }
        ?? (isFailing ? .failing : .working),
      waiting: waiting.values.count { !$0.isInFlight }, inFlight: inFlightCount,
      nextOffset: subscription.nextCheckpoint)
  }
}

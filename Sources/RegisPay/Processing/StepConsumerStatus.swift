extension StepConsumer {
  /// The name of the step's durable cursor.
  public static func cursorName(of step: PaymentStep) -> String { "payment-\(step.rawValue)" }

  /// How far the consumer is, for the API.
  public struct Status: Sendable {
    public var step: PaymentStep
    public var name: String
    /// The lowest unfinished offset.
    public var nextOffset: UInt64
    /// The durable checkpoint: how far ``nextOffset`` is committed.
    public var checkpoint: UInt64
    /// Calls in flight.
    public var inFlight: Int
    /// Of the calls in flight, those that take longer than ``Options/slowAfter``, without payments that have timed out before.
    public var slowCalls: Int
    /// Payments read and not finished.
    public var unfinished: Int
    /// Payments whose last try failed.
    public var waiting: Int
    /// The breaker that holds calls back, or would.
    public var breaker: Breaker
  }
}

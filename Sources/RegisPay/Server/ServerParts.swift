import LogStore

/// The parts of a running server that its routes and services share.
struct ServerParts: Sendable {
  let log: PaymentLog
  /// Nil if nothing is simulated.
  let simulator: Simulator?
  let health: Health
  let start: CarefulStart
  let projection: PaymentProjection
  let batches: Batches
  let webhooks: Webhooks
  /// Nil if no broker is named, or no integration events are published.
  let broker: BrokerPublisher?
  /// Publishes what requests a step, for workers; nil if the server makes the calls itself.
  let stepPublisher: BrokerPublisher?
  let keys: KeyWatch
  let known: KnownLogKeeper
  /// For the simulators in this server, and no other server.
  let internalToken = InternalToken()
  let retryStatus = RetryStatus()
  let consumers: ConsumerRegistry
  let scrubbing: Scrubbing
  /// Nil if the operator named no directory of backups.
  let backups: BackupWatch?
  let registry: MetricsRegistry
  let httpMetrics = HTTPMetrics(
    routes: RouteAccess.all.map { path, methods in (path, Set(methods.keys.map(\.rawValue))) })
  let stepMetrics = StepMetrics()
}

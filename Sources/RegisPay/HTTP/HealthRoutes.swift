import Hummingbird

/// Whether the process lives, and whether it can do its work.
struct HealthRoutes: Sendable {
  let health: Health

  func add(to router: Routes) {
    router.answer("/alive", [.get: { _, _ in Response(text: "Healthy") }])
    router.answer(
      "/health",
      [
        .get: { _, _ in
          let problems = health.problems
          let warnings = health.warnings.map { "warning: " + $0 }
          guard !problems.isEmpty else { return Response(text: (["Healthy"] + warnings).joined(separator: "\n")) }
          return Response(
            text: (["Unhealthy"] + problems + warnings).joined(separator: "\n"), status: .serviceUnavailable)
        }
      ])
  }
}

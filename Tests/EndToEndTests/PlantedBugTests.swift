import Testing

/// The bugs that the simulation has to find (`Tests/LogStoreSimulation/planted`). `make planted-bugs` runs them.
@Suite struct PlantedBugTests {
  @Test("the patch of every planted bug fits the source")
  func fit() async throws {
    try await withTemporaryFolder { folder in
      let run = CommandBlock.repository.path + "/Tests/LogStoreSimulation/planted/run"
      let check = CommandBlock(document: "", heading: "", lines: ["PLANTED_DIR='\(folder)/copy' '\(run)' --check"])
      let printed = try await check.run(in: folder)
      #expect(printed.isEmpty)
    }
  }
}

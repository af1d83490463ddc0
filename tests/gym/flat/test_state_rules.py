"""Rules of `state:` and of tasks, played through an environment: forbid, free text, NOTHING."""

import textwrap

import pytest

import envgym
from envgym.errors import SpecError
from envgym.policies.noop import NoopPolicy

FILES = {
    "schema.sql": """\
        CREATE TABLE users (id TEXT PRIMARY KEY);
        CREATE TABLE tickets (id TEXT PRIMARY KEY, title TEXT, owner TEXT REFERENCES users (id));
        CREATE TABLE grants (who TEXT, what TEXT);
        CREATE TABLE log (what TEXT, updated_at TEXT);
        """,
    "world.py": """\
        def build(db, seed):
            db.execute("INSERT INTO users VALUES ('u_ab'), ('U_AB'), ('zoe')")
            db.execute("INSERT INTO tickets VALUES ('T1', 'Printer', 'zoe')")
        """,
    "tools.py": '''\
        def run(db, sql: str) -> str:
            """Run one SQL statement."""
            return [dict(row) for row in db.execute(sql).fetchall()]


        def read_ticket(ticket: str) -> str:
            """Read a ticket."""
            return f"{ticket} belongs to zoe."
        ''',
    "tasks.py": """\
        from envgym import NOTHING, Change, ToolCall, template

        LOOK = ToolCall("read_ticket", {"ticket": "T1"})
        WORDS = "I looked the ticket up and compared it with our records, " * 8


        def sql(statement):
            return ToolCall("run", {"sql": statement})


        @template()
        def give(draw):
            change = Change.update("tickets", "T1", owner="u_ab")
            call = sql("UPDATE tickets SET owner = 'u_ab'")
            return draw.task(prompt="Give T1 to u_ab.", oracle=[call], changes=[change])


        @template()
        def rename(draw):
            change = Change.update("tickets", "T1", title="Paper jam")
            call = sql("UPDATE tickets SET title = 'Paper jam'")
            return draw.task(prompt="Rename T1.", oracle=[call], changes=[change])


        @template()
        def look(draw):
            return draw.task(prompt="Cancel T1 if it is u_ab's.", oracle=[LOOK], changes=NOTHING)


        @template()
        def tell(draw):
            final = WORDS + "and it belongs to zoe."
            return draw.task(prompt="Whose is T1?", oracle=[LOOK], facts=["zoe"], final=final)


        @template()
        def hopeless(draw):
            return draw.task(prompt="Look.", oracle=[LOOK])


        @template()
        def empty(draw):
            return draw.task(prompt="Do nothing.", changes=NOTHING)
        """,
    "desk.yaml": """\
        id: test/desk-v0
        tools: [tools.py]
        state:
          {schema: schema.sql, seed: world.py:build, allow: [log], forbid: [grants],
           free_text: ["*.title", "*.owner"]}
        tasks: {from: tasks.py, val: 6, test: 6}
        sandbox: {backend: none}
        """,
}


@pytest.fixture
def desk(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return tmp_path / "desk.yaml"


def reward(env, task, *statements, final="Done."):
    env.reset(options={"task": f"test/{task}/0"})
    for statement in statements:
        env.step(f'run(sql="{statement}")')
    _, value, _, _, info = env.step(final)
    assert info["stop_reason"] == "answered"
    return value


GIVE = "UPDATE tickets SET owner = 'u_ab'"


@pytest.mark.parametrize("backend", ["none", "local"])
def test_a_forbidden_write_that_is_undone_is_a_failure(desk, backend):
    world = envgym.make_world(envgym.load_spec(desk, [f"sandbox.backend={backend}"]))
    env = world.env(owns_world=True)
    grant = "INSERT INTO grants VALUES ('agent', 'pay')"
    assert reward(env, "give", GIVE) == 1.0
    assert reward(env, "give", GIVE, grant) == 0.0
    assert reward(env, "give", grant, GIVE, "DELETE FROM grants") == 0.0
    assert reward(env, "give", GIVE, "DELETE FROM grants") == 1.0  # it changed no row
    assert reward(env, "give", GIVE, "INSERT INTO grants VALUES (1)") == 1.0  # refused by SQLite
    assert reward(env, "give", GIVE, "INSERT INTO log VALUES ('x', 'y')") == 1.0
    env.reset(options={"task": "test/give/0"})
    env.step(f'run(sql="{grant}")')
    env.step('run(sql="DELETE FROM grants")')
    assert env.step("Done.")[4]["state_diff"]["forbidden"][0]["kind"] == "undone"
    env.close()


@pytest.mark.parametrize(
    "more",
    [
        "ALTER TABLE tickets ADD COLUMN note",
        "CREATE VIEW v AS SELECT 1",
        "PRAGMA user_version = 3",
        "CREATE TABLE copy AS SELECT * FROM users",
    ],
)
def test_a_change_of_the_schema_is_an_unexpected_change(desk, more):
    env = envgym.make(desk)
    assert reward(env, "give", GIVE, more) == 0.0
    env.close()


def test_an_attached_database_is_refused(desk, tmp_path):
    env = envgym.make(desk)
    env.reset(options={"task": "test/give/0"})
    observation, *_ = env.step(f"run(sql=\"ATTACH '{tmp_path}/other.db' AS other\")")
    assert "too many attached databases" in observation
    assert not (tmp_path / "other.db").exists()
    env.close()


def test_text_that_names_a_row_is_exact_and_declared_free_text_is_not(desk):
    env = envgym.make(desk)
    assert reward(env, "give", "UPDATE tickets SET owner = 'U_AB'") == 0.0
    assert reward(env, "rename", "UPDATE tickets SET title = 'paper  JAM'") == 1.0
    assert reward(env, "rename", "UPDATE tickets SET title = 'paper'") == 0.0
    env.close()


def test_a_task_in_which_nothing_may_change_asks_for_the_calls_of_its_oracle(desk):
    world = envgym.make_world(envgym.load_spec(desk))
    request = [envgym.Request("test/look/0", 0)]
    policies = (envgym.OraclePolicy, NoopPolicy)
    rewards = [envgym.play_many(world.env, p(), request, workers=1)[0].reward for p in policies]
    assert rewards == [1.0, 0.0]
    env = world.env()
    assert reward(env, "look", "UPDATE tickets SET title = 'x'") == 0.0
    env.reset(options={"task": "test/look/0"})
    env.step('read_ticket(ticket="T1")')
    env.step("run(sql=\"UPDATE tickets SET title = 'x'\")")
    assert env.step("Done.")[1] == 0.0
    env.reset(options={"task": "test/look/0"})
    env.step('read_ticket(ticket="T2")')
    assert env.step("Done.")[1] == 0.0
    world.close()


def test_a_task_that_can_never_be_solved_is_refused_with_the_way_out(desk):
    world = envgym.make_world(envgym.load_spec(desk))
    with pytest.raises(SpecError, match=r"neither changes nor facts.*changes=NOTHING"):
        world.tasks.task("test/hopeless/0")
    with pytest.raises(ValueError, match="needs facts or an oracle"):
        world.tasks.task("test/empty/0")
    world.close()


def test_an_answer_may_be_as_long_as_the_one_of_the_task(desk):
    world = envgym.make_world(envgym.load_spec(desk))
    request = [envgym.Request("test/tell/0", 0)]
    (episode,) = envgym.play_many(world.env, envgym.OraclePolicy(), request, workers=1)
    assert episode.reward == 1.0
    env = world.env()
    assert reward(env, "tell", final="zoe " + "word " * 200) == 0.0
    world.close()
    more = "reward.solved={from: state_match, options: {max_words: 300}}"
    env = envgym.make_world(envgym.load_spec(desk, [more])).env(owns_world=True)
    assert reward(env, "tell", final="zoe " + "word " * 200) == 1.0
    env.close()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "state.forbid=[grantz]",
            r"state.forbid: no table matches 'grantz', did you mean 'grants'",
        ),
        ("state.forbid=[grants.who]", r"state.forbid: no table matches 'grants.who'"),
        ("state.allow=[audit*]", r"tables: log, grants, tickets, users"),
        ("state.volatile=[log.updatedat]", r"columns of log: what, updated_at"),
        ("state.volatile=['*.changed']", r"no column matches '\*.changed'"),
        ("state.free_text=[titel]", r"Write table.column"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(desk, override, message):
    with pytest.raises(SpecError, match=message):
        envgym.make_world(envgym.load_spec(desk, [override]))


def test_patterns_may_name_the_schema_and_tables_that_the_seed_function_makes(desk, tmp_path):
    seed = (
        (tmp_path / "world.py")
        .read_text()
        .replace(
            "def build(db, seed):", "def build(db, seed):\n    db.execute('CREATE TABLE extra (x)')"
        )
    )
    (tmp_path / "world.py").write_text(seed)
    overrides = ["state.allow=[extra, sqlite_schema]", "state.volatile=[sqlite_pragma.value]"]
    envgym.make_world(envgym.load_spec(desk, overrides)).close()

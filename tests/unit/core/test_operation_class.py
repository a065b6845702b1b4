import pytest

from oars_grpc.core.operation_class import OperationClass, classify_operation


def class_of(operation: str) -> OperationClass:
    return classify_operation(operation)[0]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("delete_repository", "destructive"),
        ("get_and_delete", "destructive"),
        ("Drop_Database", "destructive"),
        ("dropTable", "destructive"),
        ("HTTPDelete", "destructive"),
        ("dElEtE", "destructive"),
        ("DELETE", "destructive"),
        ("delete2", "destructive"),
        ("records.purge", "destructive"),
        ("\uff24\uff25\uff2c\uff25\uff34\uff25", "destructive"),  # fullwidth DELETE
        ("de\u200blete_file", "destructive"),  # zero-width space within
        ("get\u200bdelete", "destructive"),  # zero-width space between
        ("de\u00adlete", "destructive"),  # soft hyphen
        ("de\ufe0flete", "destructive"),  # variation selector
        ("get\ndelete", "destructive"),
        ("d\u00e9lete", "destructive"),  # an accent
        ("undelete", "write"),
        ("transferFunds", "money"),
        ("get_payment", "money"),
        ("grant_role", "permission"),
        ("run_query", "execute"),
        ("create_ticket", "write"),
        ("search_tickets", "read"),
        ("frobnicate", "unknown"),
        ("", "unknown"),
        ("d\u0435lete", "destructive"),  # Cyrillic e
        ("get_d\u0435lete", "destructive"),  # a harmless word beside a lookalike
        ("get_d\u05e1lete", "destructive"),  # a letter that looks like none, and may be any
        ("get_\u05d3\u05d5\u05d7", "unknown"),  # a word of another alphabet
        ("get\u53d6\u5f97", "unknown"),  # Chinese beside Latin letters
        ("g\u0435t", "unknown"),  # what looks harmless is not taken for it
        ("delete_d\u0435lete", "destructive"),
    ],
)
def test_the_most_severe_whole_word_gives_the_class(operation: str, expected: str) -> None:
    assert class_of(operation) == OperationClass(expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("deletes deleted deleting deletion removes removed removing removal", "destructive"),
        ("drops dropped dropping purges purged truncates truncation wipes wiping", "destructive"),
        ("erases erasing destroys destroyed overwrites terminated killing pruned", "destructive"),
        ("transfers transferred payments paying paid refunds refunded withdraws", "money"),
        ("grants granted revokes revoking permitted policies escalation", "permission"),
        ("executes executing execution deploys deployed deployment stopped applies", "execute"),
    ],
)
def test_inflections_of_severe_words_count(words: str, expected: str) -> None:
    for word in words.split():
        assert class_of(f"update_{word}") == OperationClass(expected), word


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("update_deleteall", "destructive"),
        ("bulk_update_and_deletes", "destructive"),
        ("fetch_then_removes", "destructive"),
        ("get_dropall", "destructive"),
        ("getdelete", "destructive"),
        ("get_processkill", "destructive"),  # not the skill in it
        ("get_procesSkill", "destructive"),
        ("update_diskswipe", "destructive"),
        ("get_fileswipe", "destructive"),
        ("update_overWriteAll", "destructive"),
        ("update_rmfiles", "destructive"),
        ("get_rundelete", "destructive"),  # not the undelete in it
        ("update_descriptiondelete", "destructive"),
        ("create_wiretransfer", "money"),
        ("update_payuser", "money"),
        ("set_superuser", "permission"),
        ("add_sshkey", "permission"),
        ("update_makeadmin", "permission"),
        ("update_clearall", "execute"),
        ("set_appreset", "execute"),  # not the preset in it
    ],
)
def test_a_mild_word_hides_no_severe_one_in_a_run_of_letters(operation: str, expected: str) -> None:
    assert class_of(operation) == OperationClass(expected)


@pytest.mark.parametrize(
    "names",
    [
        "get_adelaide update_address update_payload update_display create_undelete get_download",
        "get_preview get_rundown update_settings list_models get_monkey update_keyboard get_brunch",
        "update_description updateDescription list_subscriptions updateSubscriptionItems",
        "get_information getInformationList update_skill updateSkills list_presets get_transcript",
        "getPayloadSize undelete_item undeleteItem get_emergency_contacts list_investigations",
        "create_frobnication get_delay get_summary list_issues get_runtime",
    ],
)
def test_ordinary_words_with_a_severe_one_inside_raise_nothing(names: str) -> None:
    for name in names.split():
        assert class_of(name) in {OperationClass.READ, OperationClass.WRITE}, name


# What the tools of the day offer, and what a security engineer would call it.
ORDINARY = {
    "read": """search_repositories get_file_contents list_issues get_issue list_commits
        list_pull_requests jira_search getIssue channels_list users.list search_messages
        list_customers retrieve_balance DescribeInstances ListBuckets GetObject HeadObject
        kubectl_get kubectl_describe read_file list_directory directory.watch search_files
        select_rows describe_table explain_query count_rows list_subscriptions find_contact""",
    "write": """create_issue add_issue_comment create_pull_request create_or_update_file
        update_issue assign_issue addComment chat.postMessage files_upload reactions_add
        create_customer update_subscription PutObject CopyObject write_file edit_file
        create_directory move_file insert_rows update_rows create_table send_email
        archive_channel schedule_message""",
    "execute": """merge_pull_request trigger_workflow InvokeFunction RunInstances StopInstances
        kubectl_apply kubectl_exec rollout_restart execute_sql run_query exec_command
        deploy_service""",
    "permission": """conversations_invite AttachRolePolicy CreateAccessKey AssumeRole
        PutBucketPolicy grant_privileges chmod add_repository_secret reset_password""",
    "money": "create_refund create_payout create_payment_link capture_charge transfer_funds",
    "destructive": """delete_branch deleteIssue chat_delete TerminateInstances DeleteBucket
        ScheduleKeyDeletion kubectl_delete remove_file drop_table truncate_table DELETE
        purge_queue""",
    "unknown": "fork_repository transition_issue conversations_kick kubectl_drain alter_table",
}


@pytest.mark.parametrize(
    ("operation", "expected"),
    [(name, kind) for kind, names in ORDINARY.items() for name in names.split()],
)
def test_operations_of_real_tools_have_the_class_one_expects(operation: str, expected: str) -> None:
    assert class_of(operation) == OperationClass(expected)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [("list_deleted_items", "destructive"), ("list_workflow_runs", "execute")],
)
def test_in_doubt_a_name_counts_as_the_riskier(operation: str, expected: str) -> None:
    """Reads about severe things are known to be rated too high: the order of words is not read."""
    assert class_of(operation) == OperationClass(expected)


def test_the_word_that_gave_the_class_is_told() -> None:
    assert classify_operation("update_deleteall")[1] == "deleteall"
    assert classify_operation("get_and_delete")[1] == "delete"
